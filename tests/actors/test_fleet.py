"""The rollout fleet on real workers: sharing, loss, hanging, growth, end."""

import asyncio
import os
import re
import signal
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from actors import weights
from actors.fleet import FleetFailed, RolloutFleet
from actors.messages import RolloutSpec
from configs.schema.rollout import RolloutConfig
from experience.records import Prompt, Sampling, Trajectory, Weights
from tests.actors.tiny_policies import load_policy, make_policy, named_tensors

pytestmark = pytest.mark.slow  # engines are killed, and their replacements take their time to start

SAMPLING = Sampling(num_samples=4, max_response_tokens=150, temperature=1.0, seed=3)

Run = Callable[[Coroutine[Any, Any, Any]], Any]


pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture(scope="module")
def run(cluster: None) -> Iterator[Run]:
    """Runs a coroutine on the loop that the module's fleet lives on."""
    with asyncio.Runner() as runner:
        yield lambda coroutine: runner.run(asyncio.wait_for(coroutine, 240))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("policy"))


def spec_of(model: Path, **config: Any) -> RolloutSpec:
    chosen = {"num_workers": 2, "max_running_sequences": 64, "progress_timeout_seconds": 20, **config}
    return RolloutSpec(model_path=str(model), config=RolloutConfig(**chosen), max_model_len=200, stop_token_ids=(1,))


@pytest.fixture(scope="module")
def published(cluster: None, model: Path) -> Weights:
    return weights.publish(7, [named_tensors(load_policy(model))])


@pytest.fixture(scope="module")
def fleet(run: Run, model: Path, published: Weights) -> Iterator[RolloutFleet]:
    async def start() -> RolloutFleet:
        fleet = RolloutFleet(spec_of(model))
        await fleet.start()
        await fleet.load(published)
        return fleet

    started = run(start())
    yield started
    run(started.close())


def prompt(ordinal: int) -> Prompt:
    tokens = np.arange(20 + ordinal % 30, 26 + ordinal % 30, dtype=np.int32)
    return Prompt(ordinal=ordinal, epoch=0, row=ordinal, tokens=tokens, text="")


async def generate(fleet: RolloutFleet, num_groups: int) -> list[tuple[Trajectory, ...]]:
    return await asyncio.gather(*(fleet.generate(prompt(at), SAMPLING) for at in range(num_groups)))


def texts(groups: list[tuple[Trajectory, ...]]) -> list[list[str]]:
    return [[trajectory.text for trajectory in group] for group in groups]


def process_of(fleet: RolloutFleet, name: str) -> int:
    """The process id of a worker."""
    return ray.get(fleet.workers[name].actor.__ray_call__.remote(lambda worker: os.getpid()))


@pytest.fixture(scope="module")
def expected(fleet: RolloutFleet, run: Run) -> list[list[str]]:
    """The texts of 32 groups, undisturbed."""
    return texts(run(generate(fleet, 32)))


async def while_sampling(fleet: RolloutFleet, name: str, act: Callable[[], None]) -> list[tuple[Trajectory, ...]]:
    """32 groups; `act` is done while worker `name` has some of them in the making."""
    waiting = asyncio.ensure_future(generate(fleet, 32))
    worker = fleet.workers[name]
    begun = (await worker.status()).progress.num_tokens
    for _ in range(1000):
        if (await worker.status()).progress.num_tokens > begun:
            break
        await asyncio.sleep(0.01)
    assert worker.leased, "all was done before anything could happen to the worker"
    act()
    return await waiting


def test_all_workers_share_the_groups(fleet: RolloutFleet, run: Run) -> None:
    groups = run(generate(fleet, 32))
    assert {trajectory.worker for group in groups for trajectory in group} == {"rollout-0", "rollout-1"}
    for ordinal, group in enumerate(groups):
        assert [trajectory.id for trajectory in group] == [f"{ordinal}.{index}" for index in range(4)]


def test_trajectories_name_their_tokens(fleet: RolloutFleet, run: Run) -> None:
    (group,) = run(generate(fleet, 1))
    for trajectory in group:
        block = run(fleet.block(trajectory.block))
        tokens = block.tokens[block.span(trajectory.row)]
        assert len(tokens) == trajectory.num_tokens
        assert tokens[: trajectory.num_prompt_tokens].tolist() == prompt(0).tokens.tolist()
        assert (trajectory.min_version, trajectory.max_version) == (7, 7)


def test_a_killed_worker_costs_no_group_and_changes_none(
    fleet: RolloutFleet, run: Run, expected: list[list[str]]
) -> None:
    victim = process_of(fleet, "rollout-0")
    assert texts(run(while_sampling(fleet, "rollout-0", lambda: os.kill(victim, signal.SIGKILL)))) == expected


def test_the_replacement_serves_the_same_weights(fleet: RolloutFleet, run: Run, expected: list[list[str]]) -> None:
    async def both_serve() -> list[tuple[Trajectory, ...]]:
        await fleet.serving("rollout-0")
        return await generate(fleet, 32)

    groups = run(both_serve())
    assert {group[0].worker for group in groups} == {"rollout-0", "rollout-1"}
    assert texts(groups) == expected


def test_a_hanging_worker_is_replaced(fleet: RolloutFleet, run: Run, expected: list[list[str]]) -> None:
    victim = process_of(fleet, "rollout-1")
    assert texts(run(while_sampling(fleet, "rollout-1", lambda: os.kill(victim, signal.SIGSTOP)))) == expected


def test_a_worker_may_join_and_another_leave(
    fleet: RolloutFleet, run: Run, published: Weights, expected: list[list[str]]
) -> None:
    async def exchange() -> list[tuple[Trajectory, ...]]:
        newcomer = fleet.add_worker()
        await fleet.serving(newcomer)
        waiting = asyncio.ensure_future(generate(fleet, 32))
        await asyncio.sleep(0)
        await fleet.remove_worker("rollout-0")
        await fleet.remove_worker("rollout-1")
        assert set(fleet.workers) == {newcomer}
        assert fleet.workers[newcomer].weights is published
        return await waiting

    assert texts(run(exchange())) == expected


def test_a_prompt_too_long_is_refused_and_harms_no_worker(fleet: RolloutFleet, run: Run) -> None:
    long = Prompt(ordinal=0, epoch=0, row=0, tokens=np.full(60, 30, dtype=np.int32), text="")
    with pytest.raises(ValueError, match="60 tokens and a response of up to 150 exceed the engine's 200"):
        run(fleet.generate(long, SAMPLING))


def test_without_workers_everybody_who_waits_is_told(model: Path, published: Weights, run: Run) -> None:
    async def lose_all() -> list[object]:
        fleet = RolloutFleet(spec_of(model, num_workers=1, max_restarts=0))
        await fleet.start()
        await fleet.load(published)
        victim = process_of(fleet, "rollout-0")
        waiting = [asyncio.ensure_future(fleet.generate(prompt(at), SAMPLING)) for at in range(4)]
        await asyncio.sleep(0)
        os.kill(victim, signal.SIGKILL)
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        with pytest.raises(FleetFailed):
            await fleet.generate(prompt(0), SAMPLING)
        await fleet.close()
        return outcomes

    for outcome in run(lose_all()):
        assert isinstance(outcome, FleetFailed)
        assert re.match(r"no rollout worker is left; the last: rollout-0 on \S+: ActorDiedError", str(outcome))
        assert "\n" not in str(outcome)


def test_weights_that_do_not_fit_end_the_fleet_at_once(model: Path, run: Run) -> None:
    async def load_wrong() -> None:
        fleet = RolloutFleet(spec_of(model, num_workers=1))
        try:
            await fleet.start()
            await fleet.load(weights.publish(1, [named_tensors(load_policy(model))[1:]]))
        finally:
            await fleet.close()

    with pytest.raises(FleetFailed, match="weights version 1 do not fit the model"):
        run(load_wrong())
