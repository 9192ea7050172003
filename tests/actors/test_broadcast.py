"""Weights from the devices of real ranks to those of real engines, all at once."""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.fleet import RolloutFleet
from actors.messages import RolloutSpec
from actors.offers import Offer
from actors.trainer import TrainerGroup
from configs.schema.rollout import RolloutConfig
from experience.records import Prompt, Sampling, Weights
from tests.actors.learner_cases import make_batch, make_spec
from tests.actors.tiny_policies import greedy, load_policy

pytestmark = pytest.mark.usefixtures("cluster")

Run = Callable[[Coroutine[Any, Any, Any]], Any]
SAMPLING = Sampling(num_samples=1, max_response_tokens=12, temperature=0.0, seed=3)
NO_STOP = 99


@pytest.fixture(scope="module")
def run(cluster: None) -> Iterator[Run]:
    """Runs a coroutine on the loop that the module's fleet lives on."""
    with asyncio.Runner() as runner:
        yield lambda coroutine: runner.run(asyncio.wait_for(coroutine, 240))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("broadcast")


@pytest.fixture(scope="module")
def group(run: Run, folder: Path) -> Iterator[TrainerGroup]:
    """Two ranks, each with a part of every tensor."""
    spec = replace(make_spec(folder, zero_stage=3, num_ranks=2), weight_transport="broadcast")
    started = run(TrainerGroup.start(spec))
    run(started.export(folder / "begin"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def fleet(run: Run, folder: Path, group: TrainerGroup) -> Iterator[RolloutFleet]:
    config = RolloutConfig(num_workers=2, max_running_sequences=8, progress_timeout_seconds=30)
    path = str(folder / "begin")
    started = RolloutFleet(RolloutSpec(model_path=path, config=config, max_model_len=64, stop_token_ids=(NO_STOP,)))
    run(started.start())
    yield started
    run(started.close())


async def publish(group: TrainerGroup, fleet: RolloutFleet, version: int) -> Weights:
    weights = await group.publish(version)
    await fleet.load(weights)
    return weights


async def check_samples(group: TrainerGroup, fleet: RolloutFleet, export: Path, version: int) -> None:
    """What both workers sample is what transformers finds with the ranks' weights."""
    await group.export(export)
    prompts = [
        Prompt(ordinal=at, epoch=0, row=at, tokens=np.arange(20 + at, 24 + at, dtype=np.int32), text="")
        for at in range(16)
    ]
    groups = await asyncio.gather(*(fleet.generate(prompt, SAMPLING) for prompt in prompts))
    assert {sample.worker for (sample,) in groups} == set(fleet.workers)
    model = load_policy(export)
    for prompt, (sample,) in zip(prompts, groups, strict=True):
        block = await fleet.block(sample.block)
        span = block.span(sample.row)
        mask = block.response_mask[span]
        assert block.tokens[span][mask].tolist() == greedy(model, prompt.tokens, 12, NO_STOP)
        assert set(block.versions[span][mask].tolist()) == {version}


def has_used_the_store(weights: Weights) -> bool:
    assert isinstance(weights.handle, Offer)
    return weights.handle._stored is not None


def test_every_worker_samples_with_what_the_ranks_hold(
    run: Run, folder: Path, group: TrainerGroup, fleet: RolloutFleet
) -> None:
    async def scene() -> None:
        for version in range(2):
            weights = await publish(group, fleet, version)
            await check_samples(group, fleet, folder / f"export-{version}", version)
            assert not has_used_the_store(weights)
            await group.update(make_batch(version, num_ranks=2))

    run(scene())


async def process_of(fleet: RolloutFleet, name: str) -> int:
    return await fleet.workers[name].actor.__ray_call__.remote(lambda _: os.getpid())


async def kill(fleet: RolloutFleet, name: str) -> None:
    os.kill(await process_of(fleet, name), signal.SIGKILL)
    await until(lambda: name not in fleet.workers)


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():  # noqa: ASYNC110 - what changes tells nobody
        await asyncio.sleep(0.05)


def test_a_replacement_gets_the_stored_weights_and_the_next_ones_with_the_others(
    run: Run, folder: Path, group: TrainerGroup, fleet: RolloutFleet
) -> None:
    async def scene() -> None:
        weights = await publish(group, fleet, 2)
        assert not has_used_the_store(weights)
        name = fleet.names[0]
        await kill(fleet, name)
        await fleet.serving(name)
        assert has_used_the_store(weights)
        await check_samples(group, fleet, folder / "export-2", 2)
        processes = list(fleet.workers.values())
        newer = await publish(group, fleet, 3)
        assert not has_used_the_store(newer)
        assert list(fleet.workers.values()) == processes, "nobody was lost"
        await check_samples(group, fleet, folder / "export-3", 3)

    run(scene())


def test_a_replacement_waits_for_newer_weights_when_the_ranks_have_gone_on(
    run: Run, folder: Path, group: TrainerGroup, fleet: RolloutFleet
) -> None:
    async def scene() -> None:
        await publish(group, fleet, 4)
        name = fleet.names[0]
        await group.update(make_batch(4, num_ranks=2))
        await kill(fleet, name)
        await until(lambda: name in fleet.workers)
        await asyncio.sleep(1)
        assert fleet.workers[name].weights is None
        await publish(group, fleet, 5)
        await check_samples(group, fleet, folder / "export-5", 5)

    run(scene())


def test_a_worker_that_dies_in_a_round_is_replaced_and_the_ranks_go_on(
    run: Run, folder: Path, group: TrainerGroup, fleet: RolloutFleet
) -> None:
    async def scene() -> None:
        weights = await group.publish(6)
        pid = await process_of(fleet, fleet.names[0])
        os.kill(pid, signal.SIGSTOP)  # it comes to the round, and receives nothing
        loading = asyncio.create_task(fleet.load(weights))
        await asyncio.sleep(2)
        os.kill(pid, signal.SIGKILL)
        await loading
        await check_samples(group, fleet, folder / "export-6", 6)

    run(scene())
