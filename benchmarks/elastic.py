"""Throughput of a rollout fleet that grows and shrinks at work, and what a slow worker costs a step.

The engines are modelled: a token of each running sequence takes 20 ms, so that the ratios are the fleet's, and not
those of two cores on which real engines would fight for time.

python -m benchmarks.elastic [--seconds 20] [--rounds 12]
"""

import argparse
import asyncio
import os
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import ray

from actors import weights
from actors.fleet import RolloutFleet
from actors.messages import RolloutSpec
from configs.schema.rollout import RolloutConfig
from experience.records import Prompt, Sampling
from tests.actors.tiny_policies import load_policy, make_policy, named_tensors

STEP_SECONDS = 0.02
SAMPLING = Sampling(num_samples=4, max_response_tokens=150, temperature=1.0, seed=3)
GROUPS_PER_STEP = 36


def prompt(ordinal: int) -> Prompt:
    """One of thirty, over and over."""
    tokens = np.arange(20 + ordinal % 30, 26 + ordinal % 30, dtype=np.int32)
    return Prompt(ordinal=ordinal, epoch=0, row=ordinal, tokens=tokens, text="")


class Load:
    """Always more groups asked for than the fleet can hold, and every one of them counted."""

    def __init__(self, fleet: RolloutFleet, width: int) -> None:
        self._fleet = fleet
        self._next = 0
        self.ids: Counter[str] = Counter()
        self.tokens = 0
        self._tasks = [asyncio.create_task(self._ask()) for _ in range(width)]
        self._is_over = False

    async def _ask(self) -> None:
        while not self._is_over:
            self._next += 1
            group = await self._fleet.generate(prompt(self._next - 1), SAMPLING)
            self.ids.update(trajectory.id for trajectory in group)
            self.tokens += sum(trajectory.num_response_tokens for trajectory in group)

    async def end(self) -> None:
        self._is_over = True
        await asyncio.gather(*self._tasks)

    async def rate(self, seconds: float) -> float:
        """Response tokens a second, from now on."""
        before, begin = self.tokens, time.monotonic()
        await asyncio.sleep(seconds)
        return (self.tokens - before) / (time.monotonic() - begin)


async def grow_and_shrink(fleet: RolloutFleet, seconds: float) -> None:
    """Print tokens/s with one, three and one workers, and what became of every sample."""
    load = Load(fleet, width=64)
    await asyncio.sleep(2)
    rates = [await load.rate(seconds)]
    newcomers = [fleet.add_worker(), fleet.add_worker()]
    await asyncio.gather(*(fleet.serving(name) for name in newcomers))
    await asyncio.sleep(2)
    rates.append(await load.rate(seconds))
    await asyncio.gather(*(fleet.remove_worker(name) for name in newcomers))
    rates.append(await load.rate(seconds))
    await load.end()
    for workers, rate in zip((1, 3, 1), rates, strict=True):
        print(f"{workers} workers: {rate:.0f} tokens/s, {rate / rates[0]:.2f} x")
    asked = load._next * SAMPLING.num_samples
    print(f"samples asked for {asked}, come {len(load.ids)}, twice {sum(n > 1 for n in load.ids.values())}")


async def step(fleet: RolloutFleet, number: int) -> float:
    """Seconds for one step's groups, one after the other steps' as in a synchronous run."""
    begin = time.monotonic()
    first = number * GROUPS_PER_STEP
    await asyncio.gather(*(fleet.generate(prompt(first + at), SAMPLING) for at in range(GROUPS_PER_STEP)))
    return time.monotonic() - begin


async def slow_worker(fleet: RolloutFleet, model: Path, rounds: int) -> None:
    """Print how long steps take with three workers, and with one of them slowed down."""
    for name in [fleet.add_worker(), fleet.add_worker()]:
        await fleet.serving(name)
    healthy = [await step(fleet, number) for number in range(rounds)]
    name = next(iter(fleet.workers))
    process = await fleet.workers[name].actor.__ray_call__.remote(lambda worker: os.getpid())
    (model / f"slow_{process}").touch()
    slowed = [await step(fleet, number) for number in range(rounds)]
    print(f"median step of three workers: {median(healthy):.2f} s; one of them 10 x slower: "
          f"first step {slowed[0]:.2f} s ({slowed[0] / median(healthy):.2f} x), "
          f"median {median(slowed):.2f} s ({median(slowed) / median(healthy):.2f} x)")  # fmt: skip
    print(f"named in the metrics: {[n for n, w in fleet.workers.items() if w.pace.slowness > 1]} ({name} was slowed)")


async def main(seconds: float, rounds: int, *, backups: bool) -> None:
    """Both, on one fleet."""
    with tempfile.TemporaryDirectory() as folder:
        model = make_policy(Path(folder))
        config = RolloutConfig(num_workers=1, max_running_sequences=16, backup_leases=backups)
        spec = RolloutSpec(model_path=str(model), config=config, max_model_len=200, stop_token_ids=(1,))
        fleet = RolloutFleet(replace(spec, engine="benchmarks.elastic:Modelled"))
        await fleet.start()
        await fleet.load(weights.publish(1, [named_tensors(load_policy(model))]))
        try:
            if seconds:
                await grow_and_shrink(fleet, seconds)
            await slow_worker(fleet, model, rounds)
        finally:
            await fleet.close()


def __getattr__(name: str) -> type:
    """The engine, made in the worker alone: the light one of the tests, at this benchmark's pace."""
    if name != "Modelled":
        raise AttributeError(name)
    from tests.actors import light_engine

    light_engine.SECONDS_PER_STEP = STEP_SECONDS
    return light_engine.LightEngine


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--no-backups", action="store_true")
    arguments = parser.parse_args()
    ray.init(address="local", num_cpus=6, include_dashboard=False, log_to_driver=False)
    asyncio.run(main(arguments.seconds, arguments.rounds, backups=not arguments.no_backups))
