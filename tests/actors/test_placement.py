"""A reference and a critic on ranks of their own give what they give on the policy's."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor

from actors.learner import PolicyLearner
from actors.ranks import TrainerGroupError
from actors.trainer import TrainerGroup
from configs.schema.training import CriticConfig, OptimizerConfig, ReferenceConfig
from experience.packing import plan_mini_batches
from experience.records import Batch
from tests.actors.learner_cases import make_batch, make_spec, policy_objective, published
from trainers.checkpoint import CheckpointError
from trainers.learner import LearnerSpec
from trainers.saving import save_checkpoint, state_snapshot

Result = TypeVar("Result")
Learner = PolicyLearner
PPO = {"name": "ppo", "kl_coef": 0.1, "value_clip": 0.2, "gae_lambda": 0.9, "gamma": 0.97}
CRITIC = CriticConfig(optimizer=OptimizerConfig(learning_rate=0.03, epsilon=1.0, max_grad_norm=100.0))
PASSING = ("throughput", "memory", "time")


pytestmark = pytest.mark.usefixtures("cluster")


def ppo_spec(folder: Path, **columns: object) -> LearnerSpec:
    """The policy on two ranks, and all else there too."""
    return replace(make_spec(folder, policy_objective(**{**PPO, **columns}), num_ranks=2), critic=CRITIC)


def spread(spec: LearnerSpec, *, critic: int = 1, critic_stage: int = 1, reference: int = 1) -> LearnerSpec:
    assert spec.critic is not None
    own = {"num_ranks": critic, "zero_stage": critic_stage}
    return replace(
        spec, critic=spec.critic.model_copy(update=own), reference=ReferenceConfig(num_ranks=reference, zero_stage=0)
    )


def batches(count: int, **changes: Any) -> list[Batch]:
    return [replace(make_batch(seed, num_ranks=2, num_mini_batches=2), epochs=2, **changes) for seed in range(count)]


@contextlib.asynccontextmanager
async def running(spec: LearnerSpec) -> AsyncIterator[Learner]:
    learner = await PolicyLearner.start(spec)
    try:
        yield learner
    finally:
        learner.close()


def with_learner(spec: LearnerSpec, work: Callable[[Any], Awaitable[Result]]) -> Result:
    async def run() -> Result:
        async with running(spec) as learner:
            return await work(learner)

    return asyncio.run(run())


async def a_course(learner: Learner, *, is_ahead: bool = False) -> tuple[list[Any], dict[str, Tensor]]:
    """The critic warms up, both learn, the reference moves, both learn on.

    `is_ahead`: each batch is scored before its update, in parts that are cut otherwise.
    """

    async def update(batch: Batch) -> Any:
        for part in parts(batch) if is_ahead else ():
            await learner.score(part)
        return await learner.update(batch)

    metrics = [await update(batch) for batch in [*batches(1, trains_policy=False), *batches(2)]]
    await learner.refresh_reference()
    metrics += [await update(batch) for batch in batches(4)[2:]]
    return metrics, await published(learner)


def parts(batch: Batch) -> Iterator[Batch]:
    """The sequences of each block, packed anew."""
    micro_batches = [micro for mini in batch.mini_batches for rank in mini.ranks for micro in rank]
    items = [item for micro in micro_batches for item in micro]
    for number in range(len(batch.blocks)):
        own = [[item] for item in items if item.block == number]
        plan = plan_mini_batches(own, num_mini_batches=1, num_ranks=2, tokens_per_micro_batch=40)
        yield Batch(blocks=batch.blocks, mini_batches=plan)


def steady(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith(PASSING)}


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory, cluster: None) -> tuple[LearnerSpec, Any]:
    """The course with everything on the policy's ranks."""
    spec = ppo_spec(tmp_path_factory.mktemp("placement"), reference_refresh_steps=1)
    return spec, with_learner(spec, a_course)


@pytest.mark.parametrize(
    ("places", "is_ahead"),
    [
        ({}, False),
        ({"critic": 2, "critic_stage": 3, "reference": 0}, True),
        ({"critic": 0, "reference": 2}, False),
        ({"critic": 0, "reference": 0}, True),
    ],
    ids=["both apart", "a ZeRO-3 critic apart, scored ahead", "the reference apart", "together, scored ahead"],
)
def test_where_and_when_a_batch_is_scored_changes_no_metric_and_no_weight(
    together: Any, places: dict[str, int], is_ahead: bool
) -> None:
    spec, (expected, expected_weights) = together
    found, found_weights = with_learner(spread(spec, **places), lambda learner: a_course(learner, is_ahead=is_ahead))
    assert all(abs(line["policy/kl_ref"]) > 1e-6 for line in expected[2:4])  # the reference has something to say
    for line, expected_line in zip(found, expected, strict=True):
        assert line.keys() == expected_line.keys()
        assert steady(line) == pytest.approx(steady(expected_line), rel=1e-4, abs=1e-5)
    assert found_weights.keys() == expected_weights.keys()
    for name, value in expected_weights.items():
        assert torch.allclose(found_weights[name], value, rtol=0, atol=1e-6), name


def test_a_resumed_learner_goes_on_bit_for_bit_on_as_many_ranks(tmp_path: Path) -> None:
    spec = spread(ppo_spec(tmp_path, reference_refresh_steps=1))
    first, *rest = batches(3)
    folder = tmp_path / "checkpoints" / "step_000001"

    async def whole(learner: Learner) -> Any:
        await learner.update(first)
        await learner.refresh_reference()
        await save_checkpoint(learner, folder, state_snapshot({"cursor": 7}))
        return [steady(dict(await learner.update(batch))) for batch in rest], await published(learner)

    async def resumed(learner: Learner) -> Any:
        assert await learner.load(folder) == {"cursor": 7}
        return [steady(dict(await learner.update(batch))) for batch in rest], await published(learner)

    expected, expected_weights = with_learner(spec, whole)
    found, found_weights = with_learner(replace(spec, seed=99), resumed)
    assert found == expected
    assert all(torch.equal(found_weights[name], value) for name, value in expected_weights.items())
    message = r"written by 1 ranks of the reference's own, and reference.num_ranks=0; set reference.num_ranks=1"
    with pytest.raises(CheckpointError, match=message):
        asyncio.run(TrainerGroup(spec, [None, None], []).load(folder))


def test_a_killed_rank_of_the_critic_ends_all_groups_and_is_named(tmp_path: Path) -> None:
    async def train(learner: PolicyLearner) -> list[int]:
        groups = learner._groups
        assert groups.critic is not None
        pids = [await rank.pid.remote() for group in groups.all for rank in group._ranks]
        os.kill(pids[-1], signal.SIGKILL)  # the critic's come last
        told = "^critic rank 0 of 1 failed in score: its process died; .*; all 1 ranks were ended$"
        with pytest.raises(TrainerGroupError, match=told):
            await learner.update(batches(1)[0])
        with pytest.raises(TrainerGroupError, match=told):
            await learner.publish(1)
        return pids

    pids = with_learner(spread(ppo_spec(tmp_path)), train)
    assert len(pids) == 4
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, f"processes {pids} outlive their learner"
        time.sleep(0.1)
