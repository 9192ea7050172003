"""Rollout workers that are slow, hang, sample nonsense, refuse weights or find no room. Their engine is a light one."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

from actors import weights
from actors.fleet import FleetFailed, RolloutFleet
from actors.messages import RolloutSpec
from actors.placement import PlacementRefused, refusal
from configs.schema.placement import PlacementConfig
from configs.schema.rollout import RolloutConfig
from experience.records import Sampling, Trajectory, Weights
from tests.actors.light_engine import LIGHT_ENGINE
from tests.actors.test_fleet import prompt
from tests.actors.tiny_policies import load_policy, make_policy, named_tensors

pytestmark = pytest.mark.usefixtures("cluster")

SAMPLING = Sampling(num_samples=4, max_response_tokens=150, temperature=1.0, seed=3)
Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(scope="module")
def run(cluster: None) -> Iterator[Run]:
    with asyncio.Runner() as runner:
        yield lambda coroutine: runner.run(asyncio.wait_for(coroutine, 120))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture
def publish(cluster: None, model: Path) -> Callable[[int], Weights]:
    return lambda version: weights.publish(version, [named_tensors(load_policy(model))])


@asynccontextmanager
async def serving(model: Path, published: Weights, **config: Any) -> AsyncIterator[RolloutFleet]:
    """A fleet of light engines that hold the weights."""
    chosen = {"num_workers": 3, "max_running_sequences": 16, "progress_timeout_seconds": 20, **config}
    spec = RolloutSpec(model_path=str(model), config=RolloutConfig(**chosen), max_model_len=200, stop_token_ids=(1,))
    fleet = RolloutFleet(replace(spec, engine=LIGHT_ENGINE), seconds_to_place=3)
    try:
        await fleet.start()
        await fleet.load(published)
        yield fleet
    finally:
        await fleet.close()


async def process_of(fleet: RolloutFleet, name: str) -> int:
    return await fleet.workers[name].actor.__ray_call__.remote(lambda worker: os.getpid())


async def sample(fleet: RolloutFleet, count: int = 45) -> list[tuple[Trajectory, ...]]:
    return await asyncio.gather(*(fleet.generate(prompt(at), SAMPLING) for at in range(count)))


def told(groups: list[tuple[Trajectory, ...]]) -> list[list[tuple[str, str]]]:
    return [[(trajectory.id, trajectory.text) for trajectory in group] for group in groups]


def shares(groups: list[tuple[Trajectory, ...]]) -> dict[str, int]:
    names = [group[0].worker for group in groups]
    return {name: names.count(name) for name in sorted(set(names))}


@pytest.fixture(scope="module")
def fleet(run: Run, model: Path) -> Iterator[RolloutFleet]:
    """Three workers, on three of the six cores, for scenes that leave them as they were, but for their pace."""
    published = weights.publish(1, [named_tensors(load_policy(model))])
    served = serving(model, published)
    yield run(served.__aenter__())
    run(served.__aexit__(None, None, None))


@contextmanager
def faulty(model: Path, fault: str, process: int) -> Iterator[None]:
    """Inside, the engine of this process has the fault."""
    sign = model / f"{fault}_{process}"
    sign.touch()
    try:
        yield
    finally:
        sign.unlink()


def test_an_engine_that_samples_nonsense_is_named_in_its_samples(run: Run, model: Path, fleet: RolloutFleet) -> None:
    async def scene() -> None:
        with faulty(model, "nan", await process_of(fleet, "rollout-0")):
            found = [t for group in await sample(fleet) for t in group]
        assert {t.worker for t in found if not t.is_sound} == {"rollout-0"}
        assert {t.worker for t in found if t.is_sound} == {"rollout-1", "rollout-2"}

    run(scene())


def test_a_slow_worker_is_named_given_less_and_changes_no_sample(run: Run, model: Path, fleet: RolloutFleet) -> None:
    async def scene() -> None:
        expected = told(await sample(fleet))
        fleet.metrics()
        with faulty(model, "slow", await process_of(fleet, "rollout-1")):
            for _ in range(4):
                groups = await sample(fleet)
                assert told(groups) == expected
            metrics = fleet.metrics()
            assert metrics["rollout/slow_workers"] == 1
            assert metrics["slowness/rollout-1"] > 3
            assert metrics["slowness/rollout-0"] == metrics["slowness/rollout-2"] == 1
            assert metrics["speed/rollout-1"] < metrics["speed/rollout-0"] / 2
            assert shares(groups).get("rollout-1", 0) < min(shares(groups)["rollout-0"], shares(groups)["rollout-2"])

    run(scene())


def test_what_a_stopped_worker_holds_is_sampled_by_others_long_before_it_is_given_up(
    run: Run, model: Path, publish: Callable[[int], Weights]
) -> None:
    async def scene() -> None:
        async with serving(model, publish(1), progress_timeout_seconds=100) as fleet:
            expected = told(await sample(fleet))
            process = await process_of(fleet, "rollout-1")
            waiting = asyncio.ensure_future(sample(fleet))
            await asyncio.sleep(0.02)
            assert fleet.workers["rollout-1"].leased
            os.kill(process, signal.SIGSTOP)
            try:
                assert told(await waiting) == expected
                assert fleet.num_restarts == 0
                assert fleet.metrics()["rollout/backup_leases"] > 0
                assert not fleet.workers["rollout-1"].leased
            finally:
                os.kill(process, signal.SIGKILL)

    run(scene())


def test_a_worker_that_refuses_weights_half_way_is_replaced_and_no_batch_mixes_versions(
    run: Run, model: Path, publish: Callable[[int], Weights]
) -> None:
    async def scene() -> None:
        async with serving(model, publish(1), num_workers=2) as fleet:
            (model / f"refuse_{await process_of(fleet, 'rollout-1')}").touch()
            await fleet.load(publish(2))
            groups = await sample(fleet)
            assert {(t.min_version, t.max_version) for group in groups for t in group} == {(2, 2)}
            # Its place was empty when the other one had the weights; the new process has them before it serves.
            await fleet.serving("rollout-1")
            assert fleet.num_restarts == 1
            assert set(shares(await sample(fleet))) == {"rollout-0", "rollout-1"}

    run(scene())


def test_between_requests_no_sample_spans_two_versions(
    run: Run, model: Path, publish: Callable[[int], Weights]
) -> None:
    async def scene() -> None:
        async with serving(model, publish(1), num_workers=2, weight_update="between_requests") as fleet:
            waiting = asyncio.ensure_future(sample(fleet))
            await asyncio.sleep(0.02)
            await fleet.load(publish(2))
            found = [t for group in await waiting for t in group]
            assert all(t.min_version == t.max_version for t in found)
            assert {t.min_version for t in found} == {1, 2}

    run(scene())


def test_when_the_last_worker_is_gone_the_node_and_what_it_logged_are_told(
    run: Run, model: Path, publish: Callable[[int], Weights]
) -> None:
    async def scene() -> None:
        async with serving(model, publish(1), num_workers=1, max_restarts=0) as fleet:
            (model / f"refuse_{await process_of(fleet, 'rollout-0')}").touch()
            node = fleet.workers["rollout-0"].node
            with pytest.raises(FleetFailed) as failure:
                await fleet.load(publish(2))
            assert f"no rollout worker is left; the last: rollout-0 on {node}: " in str(failure.value)
            assert "half of the weights did not come" in str(failure.value)

    run(scene())


def test_more_workers_than_there_is_room_for_are_refused_with_what_there_is(
    run: Run, model: Path, publish: Callable[[int], Weights]
) -> None:
    async def scene() -> None:
        async with serving(model, publish(1), num_workers=1, threads_per_worker=3) as fleet:
            late = fleet.add_worker()
            with pytest.raises(PlacementRefused, match=r"no room for rollout-1 within 3 s: asked for 1 x 3 CPU"):
                await fleet.serving(late)
            assert fleet.names == ("rollout-0",)
            assert len(await sample(fleet)) == 45  # who was there goes on

    run(scene())


def test_a_start_without_room_for_all_workers_is_refused(
    run: Run, model: Path, publish: Callable[[int], Weights]
) -> None:
    async def scene() -> None:
        async with serving(model, publish(1), num_workers=2, threads_per_worker=2):
            raise AssertionError("there is no room")

    with pytest.raises(PlacementRefused, match=f"{ray.util.get_node_ip_address()} has 6 CPU"):
        run(scene())


def test_a_refusal_tells_asked_against_present_node_by_node() -> None:
    nodes = [
        {"Alive": True, "NodeManagerAddress": "10.0.0.1", "Resources": {"CPU": 8.0, "GPU": 2.0}},
        {"Alive": False, "NodeManagerAddress": "10.0.0.2", "Resources": {"CPU": 8.0, "GPU": 8.0}},
        {"Alive": True, "NodeManagerAddress": "10.0.0.3", "Resources": {"CPU": 4.0}},
    ]
    text = refusal("trainer of 4 ranks", [{"CPU": 1.0, "GPU": 1.0}] * 4, PlacementConfig(), nodes, 60)
    assert text.startswith(
        "no room for trainer of 4 ranks within 60 s: asked for 4 x 1 CPU, 1 GPU; taken or not, there is: "
        "10.0.0.1 has 8 CPU, 2 GPU; 10.0.0.3 has 4 CPU, 0 GPU; "
    )
