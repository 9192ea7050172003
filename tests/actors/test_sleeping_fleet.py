"""Engines that leave their devices to the trainer's ranks: nobody samples without new weights. The engine is light."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RayTaskError

from actors import weights
from actors.fleet import FleetFailed, RolloutFleet
from actors.messages import RolloutSpec
from configs.schema.rollout import RolloutConfig
from experience.records import Sampling, Weights
from tests.actors.light_engine import LIGHT_ENGINE
from tests.actors.test_fleet import generate, process_of, prompt
from tests.actors.tiny_policies import load_policy, make_policy, named_tensors

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("policy"))


def spec_of(model: Path, **config: Any) -> RolloutSpec:
    chosen = RolloutConfig.model_validate({"num_workers": 2, "colocated": True, **config})
    spec = RolloutSpec(model_path=str(model), config=chosen, max_model_len=200, stop_token_ids=(1,))
    return replace(spec, engine=LIGHT_ENGINE)


def with_fleet(spec: RolloutSpec, work: Callable[[RolloutFleet], Awaitable[None]]) -> None:
    async def run() -> None:
        fleet = RolloutFleet(spec)
        try:
            await fleet.start()
            await work(fleet)
        finally:
            await fleet.close()

    asyncio.run(asyncio.wait_for(run(), 120))


def version(number: int, model: Path) -> Weights:
    return weights.publish(number, [named_tensors(load_policy(model))])


def versions(groups: Any) -> set[int]:
    samples = [sample for group in groups for sample in group]
    return {sample.min_version for sample in samples} | {sample.max_version for sample in samples}


def states(fleet: RolloutFleet) -> list[str]:
    return [worker.state for worker in fleet.workers.values()]


async def until(condition: Callable[[], object]) -> None:
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came true")


def test_a_fleet_that_sleeps_samples_nothing_until_it_has_new_weights(model: Path) -> None:
    async def work(fleet: RolloutFleet) -> None:
        await fleet.sleep()  # before it had any weights, as at the start of a run
        await fleet.sleep()
        assert states(fleet) == ["asleep", "asleep"]
        await fleet.load(version(1, model))
        assert states(fleet) == ["idle", "idle"]
        assert versions(await generate(fleet, 8)) == {1}
        under_way = asyncio.ensure_future(generate(fleet, 32))
        await until(lambda: any(worker.leased for worker in fleet.workers.values()))
        await fleet.sleep()
        assert states(fleet) == ["asleep", "asleep"]
        told = [await worker.status() for worker in fleet.workers.values()]
        assert [(status.version, status.num_unfinished) for status in told] == [(None, 0), (None, 0)]
        assert not any(worker.leased for worker in fleet.workers.values())
        await asyncio.sleep(0.1)
        assert not under_way.done() and fleet.leases.num_waiting > 0
        worker = fleet.workers["rollout-0"]
        with pytest.raises(RayTaskError, match="this rollout worker has no proven weights"):
            await worker.actor.submit.remote([])
        await fleet.load(version(2, model))
        groups = await under_way
        assert len(groups) == 32 and versions(groups) <= {1, 2} and 2 in versions(groups)
        assert all(sample.min_version == sample.max_version for group in groups for sample in group)

    with_fleet(spec_of(model), work)


@pytest.mark.parametrize("weight_update", ["in_flight", "between_requests"])
def test_a_worker_that_dies_asleep_is_replaced_when_the_fleet_wakes(model: Path, weight_update: str) -> None:
    async def work(fleet: RolloutFleet) -> None:
        await fleet.load(version(1, model))
        await fleet.sleep()
        os.kill(process_of(fleet, "rollout-1"), signal.SIGKILL)
        await until(lambda: "rollout-1" not in fleet.workers)
        await asyncio.sleep(1.0)
        assert fleet.num_restarts == 1 and set(fleet.workers) == {"rollout-0"}
        await fleet.load(version(2, model))
        assert states(fleet) == ["idle"]
        await fleet.sleep()  # waits for the engine that is just starting, too
        assert states(fleet) == ["asleep", "asleep"]
        await fleet.load(version(3, model))
        assert states(fleet) == ["idle", "idle"]
        assert versions(await generate(fleet, 8)) == {3}

    with_fleet(spec_of(model, weight_update=weight_update), work)


def test_an_engine_that_cannot_sleep_ends_the_fleet_with_the_reason(model: Path) -> None:
    async def work(fleet: RolloutFleet) -> None:
        await fleet.load(version(1, model))
        await fleet.sleep()  # a fleet that failed holds no device
        assert not fleet.workers
        with pytest.raises(FleetFailed, match=r"rollout-.*: this engine can't sleep: it has no device"):
            await fleet.generate(prompt(0), Sampling(num_samples=1, max_response_tokens=4, temperature=1.0, seed=0))

    with_fleet(spec_of(model, colocated=False, num_workers=1), work)
