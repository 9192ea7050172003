"""How long the weights take from the trainer to one engine and to several, against copying as many bytes.

    python -m benchmarks.sync [--rounds 7] [--engines 1 4] [--transport store] [--json FILE]

A real ZeRO rank publishes 100 M parameters in float32, real vLLM engines load them. Copies and syncs take turns, so
that all see the same machine. The parts of a sync are measured apart, one after the other.
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, get_args

import numpy as np
import ray

from actors import weights
from actors.engine_environment import environment
from actors.fleet import RolloutFleet
from actors.messages import RolloutSpec
from actors.rollout import RolloutWorker
from actors.trainer import TrainerGroup, TrainerRank
from benchmarks.rollout import make_policy
from cluster.rl_specs import engine_threads
from cluster.session import ray_session
from configs.schema import ClusterConfig
from configs.schema.model import ModelConfig
from configs.schema.rollout import RolloutConfig, WeightTransport
from configs.schema.training import OptimizerConfig, TrainerConfig
from experience.records import Weights
from trainers.learner import LearnerSpec
from trainers.supervised import SupervisedObjective

NEW_MEMORY = "copy into new memory"
COPY = "copy into memory that is there"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sync:
    """One way of moving the weights, in seconds, once a round. `publish`: the trainer's share of it."""

    what: str
    num_bytes: int
    seconds: list[float]
    publish: list[float]

    @property
    def median(self) -> float:
        """Seconds, the whole way."""
        return median(self.seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of a sync by itself, in seconds, once a round."""

    what: str
    seconds: list[float]


class PartsRank(TrainerRank):
    """A rank that tells where the time of its publishing goes."""

    def parts(self) -> dict[str, float]:
        """Seconds of each part, one after the other; nothing is published."""
        from actors.trainer import PUBLISH_BUCKET_BYTES
        from trainers.policy_weights import whole_weights

        spent = {"gather": 0.0, "checksum": 0.0, "put": 0.0}
        began = time.perf_counter()
        for bucket in whole_weights(self._trainer.engine, PUBLISH_BUCKET_BYTES):
            contents = [weights.as_bytes(tensor) for _, tensor in bucket]
            spent["gather"] += time.perf_counter() - began
            spent["checksum"] += _seconds(lambda contents=contents: weights.digest(contents))
            spent["put"] += _seconds(lambda contents=contents: ray.put(contents))
            began = time.perf_counter()
        return spent


class PartsWorker(RolloutWorker):
    """A worker that tells where the time of its loading goes."""

    async def parts(self, published: Weights) -> dict[str, float]:
        """Seconds of each part, one after the other. The engine has the weights afterwards."""
        began = time.perf_counter()
        contents = [await bucket.handle for bucket in published.handle]
        read = time.perf_counter()
        weights.prove(published, contents)
        proven = time.perf_counter()
        loaded = await self._ask(lambda engine: _seconds(lambda: engine._parts.load(published, contents)))  # type: ignore[attr-defined]
        reset = await self._ask(lambda engine: _seconds(lambda: engine._core.reset_prefix_cache(True)))  # type: ignore[attr-defined]
        return {"read": read - began, "prove": proven - read, "load": loaded, "reset the cache": reset}


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


async def measure(
    folder: Path, counts: Sequence[int], rounds: int, transport: WeightTransport = "store"
) -> tuple[list[Sync], list[Part]]:
    """Syncs to so many engines in turn with copies, then the parts. The first round makes the memory, and is left out.

    `folder`: a policy in Hugging Face format. Ray must run.
    """
    group = await RatedGroup.start(replace(_learner_spec(folder), weight_transport=transport))
    num_bytes = sum(facts.num_bytes for bucket in (await group.store(0)).handle for facts in bucket.facts)
    copies: dict[str, list[float]] = {COPY: [], NEW_MEMORY: []}
    syncs = [await _synced(group, _rollout_spec(folder, count), num_bytes, rounds, copies) for count in counts]
    parts = await _parts(group, _rollout_spec(folder, 1), rounds)
    group.close()
    return [
        Sync(what=name, num_bytes=num_bytes, seconds=spent, publish=[]) for name, spent in copies.items()
    ] + syncs, parts


async def _synced(
    group: "RatedGroup", spec: RolloutSpec, num_bytes: int, rounds: int, copies: Mapping[str, list[float]]
) -> Sync:
    """Syncs to a fleet, and copies between them."""
    fleet = RolloutFleet(spec)
    await fleet.start()
    whole, publish = [], []
    for version in range(rounds + 1):
        for name, seconds in _copies(num_bytes).items():
            copies[name].append(seconds)
        began = time.perf_counter()
        published = await group.publish(version)
        publish.append(time.perf_counter() - began)
        await fleet.load(published)
        whole.append(time.perf_counter() - began)
        del published
    await fleet.close()
    what = f"sync to {spec.config.num_workers}, {spec.threads} threads each"
    return Sync(what=what, num_bytes=num_bytes, seconds=whole[1:], publish=publish[1:])


def _copies(num_bytes: int) -> dict[str, float]:
    """Seconds of both ways to copy so many bytes, by one thread."""
    source, target = np.ones(num_bytes, np.uint8), np.ones(num_bytes, np.uint8)
    return {COPY: _seconds(lambda: np.copyto(target, source)), NEW_MEMORY: _seconds(source.copy)}


class RatedGroup(TrainerGroup):
    """The ranks of a learner that tells where the time of its publishing goes."""

    rank_class = PartsRank

    async def parts(self) -> dict[str, float]:
        """See PartsRank."""
        return (await self._call("parts", [()] * len(self)))[0]


async def _parts(group: RatedGroup, spec: RolloutSpec, rounds: int) -> list[Part]:
    """The rank's and one worker's, `rounds` times."""
    worker: Any = ray.remote(PartsWorker).options(runtime_env={"env_vars": environment(spec)}).remote(spec, "parts")
    await worker.start.remote()
    found: dict[str, list[float]] = {}
    for version in range(rounds + 1):
        told = await group.parts() | await worker.parts.remote(await group.store(version))
        for name, seconds in told.items():
            found.setdefault(name, []).append(seconds)
    ray.kill(worker)
    return [Part(what=name, seconds=seconds[1:]) for name, seconds in found.items()]


def _learner_spec(folder: Path) -> LearnerSpec:
    """One ZeRO-1 rank, one thread."""
    return LearnerSpec(
        model=ModelConfig(path=str(folder)),
        tokenizer_path=str(folder),
        seed=0,
        optimizer=OptimizerConfig(),
        trainer=TrainerConfig(num_ranks=1, zero_stage=1, threads_per_rank=1),
        objective=SupervisedObjective(),
        total_updates=1,
    )


def _rollout_spec(folder: Path, num_engines: int) -> RolloutSpec:
    """Engines that share the cores, as those of a run."""
    config = RolloutConfig(num_workers=num_engines)
    threads = engine_threads(config, ClusterConfig(), use_gpu=False)
    return RolloutSpec(model_path=str(folder), config=config, max_model_len=128, stop_token_ids=(), threads=threads)


def table(found: Sequence[Sync], parts: Sequence[Part]) -> str:
    """Medians, gigabytes a second and the speed relative to the copy, and the parts."""
    copy = next(sync.median for sync in found if sync.what == COPY)
    new = next(sync.median for sync in found if sync.what == NEW_MEMORY)
    lines = ["| | ms | of it to publish | GB/s | of the copy's speed | of the copy into new memory |", "|---" * 6 + "|"]
    for sync in found:
        publish = f"{1e3 * median(sync.publish):.0f}" if sync.publish else "-"
        speed = f"{sync.num_bytes / sync.median / 1e9:.1f} | {copy / sync.median:.0%} | {new / sync.median:.0%}"
        lines.append(f"| {sync.what} | {1e3 * sync.median:.0f} | {publish} | {speed} |")
    lines += ["", "| part | ms |", "|---|---|"]
    lines += [f"| {part.what} | {1e3 * median(part.seconds):.1f} |" for part in parts]
    syncs = [sync for sync in found if sync.publish]
    for sync in syncs[1:]:
        lines += ["", f"{sync.what}: {sync.median / syncs[0].median:.2f} times as long as {syncs[0].what}"]
    return "\n".join(lines)


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--engines", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--transport", choices=get_args(WeightTransport), default="store")
    parser.add_argument("--size", default="100M", help="of benchmarks/rollout.py")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "policy"
        make_policy(folder, asked.size)
        with ray_session(ClusterConfig(), num_cpus=max(asked.engines) + 2):
            found, parts = asyncio.run(measure(folder, asked.engines, asked.rounds, asked.transport))
    print(f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, {found[0].num_bytes / 1e6:.0f} MB")
    print(table(found, parts))
    if asked.json:
        asked.json.write_text(json.dumps({"syncs": [*map(asdict, found)], "parts": [*map(asdict, parts)]}, indent=1))


if __name__ == "__main__":
    main()
