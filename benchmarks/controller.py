"""What the controller costs: its CPU seconds a second, at 64 modelled workers and 10,000 trajectories a second.

    python -m benchmarks.controller [--workers 64 ...] [--rate 10000] [--steps 12] [--profile FILE] [--json FILE]

The real loop, buffer, ledger, fleet, leases, credit and packing, in real time. Only Ray's actors are modelled, by their
messages; the time spent on playing them is measured apart and not counted. What a call of a real actor costs the driver
is measured by itself.
"""

import argparse
import asyncio
import cProfile
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray

from actors.garbage import collected_rarely
from actors.messages import Harvest, Progress, RolloutSpec
from algorithms.table import resolve
from benchmarks.modelled_workers import GROUP_SIZE, ModelledFleet, group_result
from cluster.session import ray_session
from cluster.simulated import CoinRewards, EndlessPrompts, SimulatedLearner
from configs.schema import ClusterConfig
from configs.schema.algorithm import AlgorithmConfig
from configs.schema.rollout import RolloutConfig
from experience.records import Batch, Sampling
from metrics.meter import Meter
from trainers.credit import BatchShape, Credit, CreditAssigner
from trainers.loop import Loop, Schedule
from trainers.observer import Observer
from trainers.roles import Roles

SPARE = 1.5  # times the sequences that make the rate
WARM_STEPS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run after its first steps. `cpu_seconds`: without `played_seconds`, those spent on playing the workers."""

    num_workers: int
    num_trajectories: int
    seconds: float
    cpu_seconds: float
    played_seconds: float
    num_calls: int
    ray_call_seconds: float | None = None

    @property
    def rate(self) -> float:
        """Trajectories a second."""
        return self.num_trajectories / self.seconds

    @property
    def cores(self) -> float:
        """CPU seconds of the controller a second."""
        return self.cpu_seconds / self.seconds

    @property
    def calls_per_second(self) -> float:
        """Of the workers' methods."""
        return self.num_calls / self.seconds

    @property
    def ray_cores(self) -> float | None:
        """CPU seconds a second of the driver's process that Ray would take for so many calls."""
        return None if self.ray_call_seconds is None else self.calls_per_second * self.ray_call_seconds

    @property
    def cpu_seconds_per_10_000(self) -> float:
        """Of the controller, for so many trajectories."""
        return self.cpu_seconds / self.num_trajectories * 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """How far a run is, in seconds and trajectories."""

    at: float
    cpu: float
    played: float
    trajectories: int
    calls: int


class Watch(Observer):
    """Notes each step's end. With a profile, of the steps after the warm ones."""

    def __init__(self, fleet: ModelledFleet, profile: cProfile.Profile | None) -> None:
        self.moments: list[Moment] = []
        self._fleet, self._profile = fleet, profile
        self._num_trajectories = 0

    def record(self, step: int, credit: Credit, metrics: Mapping[str, float]) -> None:
        """A step is over."""
        self._num_trajectories += sum(len(group.samples) for group in credit.groups)
        if step > WARM_STEPS:
            self.moments.append(
                Moment(
                    at=time.perf_counter(),
                    cpu=time.process_time(),
                    played=self._fleet.played.seconds,
                    trajectories=self._num_trajectories,
                    calls=self._fleet.num_calls,
                )
            )
        elif self._profile is not None and step == WARM_STEPS:
            self._profile.enable()


class PacedLearner(SimulatedLearner):
    """Its updates end once a period, and no sooner: the rate of the run, as far as the controller keeps up."""

    def __init__(self, period: float) -> None:
        super().__init__(lambda num_tokens: 0.0)
        self._period = period
        self._due: float | None = None

    async def update(self, batch: Batch) -> Mapping[str, float]:
        """See trainers.roles.Learner."""
        now = time.monotonic()
        self._due = now if self._due is None else self._due + self._period
        await asyncio.sleep(max(0.0, self._due - now))
        return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is asked of the controller: `rate` trajectories a second. Sampling one takes about as long as a step."""

    num_workers: int
    rate: float
    num_steps: int
    step_seconds: float = 1.0


def measure(load: Load, profile: cProfile.Profile | None = None) -> Measured:
    """One run."""
    torch.set_num_threads(1)
    with collected_rarely():
        return asyncio.run(_measure(load, profile))


async def _measure(load: Load, profile: cProfile.Profile | None) -> Measured:
    prompts_per_step = round(load.rate * load.step_seconds / GROUP_SIZE)
    # Engines that could do more: the learner sets the pace.
    groups_per_worker = math.ceil(SPARE * prompts_per_step / load.num_workers)
    sampling = Sampling(num_samples=GROUP_SIZE, max_response_tokens=1024, temperature=1.0, seed=0)
    spec = RolloutSpec(
        model_path="none",
        config=RolloutConfig(num_workers=load.num_workers, max_running_sequences=groups_per_worker * GROUP_SIZE),
        max_model_len=2048,
        stop_token_ids=(),
    )
    fleet = ModelledFleet(spec, load.step_seconds)
    await fleet.start()
    roles = Roles(
        prompts=EndlessPrompts(),
        rollouts=fleet,
        rewards=CoinRewards(0.0),
        learner=PacedLearner(load.step_seconds),
    )
    shape = BatchShape(mini_batches=1, epochs=1, num_ranks=8, tokens_per_micro_batch=16384, max_response_tokens=1024)
    loop = Loop(
        schedule=Schedule(
            first_step=0,
            num_steps=load.num_steps,
            prompts_per_step=prompts_per_step,
            max_staleness=2,
            sampling=sampling,
        ),
        roles=roles,
        assigner=CreditAssigner(resolve(AlgorithmConfig(name="grpo", kl_coef=0)), shape),
        meter=Meter(),
    )
    watch = Watch(fleet, profile)
    looking = asyncio.create_task(fleet.look())
    await loop.run(watch)
    if profile is not None:
        profile.disable()
    looking.cancel()
    await fleet.close()
    first, last = watch.moments[0], watch.moments[-1]
    return Measured(
        num_workers=load.num_workers,
        num_trajectories=last.trajectories - first.trajectories,
        seconds=last.at - first.at,
        cpu_seconds=last.cpu - first.cpu - (last.played - first.played),
        played_seconds=last.played - first.played,
        num_calls=last.calls - first.calls,
    )


class Answering:
    """A real actor that answers as a rollout worker does."""

    @ray.method(num_returns=2)
    async def collect(self, ticket: int) -> tuple[NDArray[np.uint8], Harvest]:
        """A block of tokens that stays in the store, and a group."""
        harvest = Harvest(groups=(group_result(ticket, 0),), progress=Progress())
        return np.zeros(200_000, np.uint8), harvest


def ray_call_seconds(num_calls: int = 2000) -> float:
    """CPU seconds, of all threads of the driver, that a call of a real actor costs it."""
    with ray_session(ClusterConfig(), num_cpus=2):
        return asyncio.run(_ray_call_seconds(num_calls))


async def _ray_call_seconds(num_calls: int) -> float:
    actor: Any = ray.remote(Answering).remote()

    async def ask(count: int) -> None:
        for ticket in range(count):
            _, harvest = actor.collect.remote(ticket)
            await harvest

    await ask(50)
    began = time.process_time()
    await asyncio.gather(*(ask(num_calls // 16) for _ in range(16)))
    spent = time.process_time() - began
    ray.kill(actor)
    return spent / (num_calls // 16 * 16)


def table(found: Sequence[Measured]) -> str:
    """A row a run."""
    lines = ["| workers | trajectories/s | cores | CPU s for 10,000 | calls/s | with Ray's calls, cores |"]
    lines.append("|---" * 6 + "|")
    for run in found:
        own = f"{run.cores:.2f} | {run.cpu_seconds_per_10_000:.2f} | {run.calls_per_second:,.0f}"
        whole = "-" if run.ray_cores is None else f"{run.cores + run.ray_cores:.2f}"
        lines.append(f"| {run.num_workers} | {run.rate:,.0f} | {own} | {whole} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[64])
    parser.add_argument("--rate", type=float, default=10_000.0)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--profile", type=Path, help="where cProfile's numbers go; it slows the run down")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    profile = cProfile.Profile() if asked.profile else None
    loads = [Load(num_workers=count, rate=asked.rate, num_steps=asked.steps) for count in asked.workers]
    call = ray_call_seconds()
    found = [replace(measure(load, profile), ray_call_seconds=call) for load in loads]
    print(f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores; a Ray call: {1e3 * call:.2f} ms of CPU")
    print(table(found))
    if profile is not None:
        profile.dump_stats(asked.profile)
    if asked.json:
        asked.json.write_text(json.dumps([asdict(run) for run in found], indent=1))


if __name__ == "__main__":
    main()
