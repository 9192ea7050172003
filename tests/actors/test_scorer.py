"""Reward models in Ray: replicas share the work, a lost one's samples are judged by another, poison is contained."""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from transformers import AutoModelForSequenceClassification

from actors.scorer import ScorerRank, ScorerSpec
from actors.scorer_fleet import ScorerFleet
from configs.schema.rewards import RewardModelConfig, RewardPoolConfig, RewardSpec
from rewards.contract import RewardError, RewardInput, RewardOutage, Status
from rewards.pool import RewardPool
from tests.actors.tiny_reward_models import make_reward_model
from trainers.scoring_model import ScoringModel

pytestmark = pytest.mark.slow  # replicas are killed, and their replacements take their time to import torch

ITEMS = [RewardInput(prompt=f"What is {n}?", response="x" * (n % 50), answer=None) for n in range(200)]

Run = Callable[[Coroutine[Any, Any, Any]], Any]


pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture
def run() -> Iterator[Run]:
    """Runs coroutines on one loop."""
    with asyncio.Runner() as runner:
        yield lambda coroutine: runner.run(asyncio.wait_for(coroutine, 240))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_reward_model(tmp_path_factory.mktemp("reward_model"))


def spec_of(model: Path, **config: Any) -> ScorerSpec:
    return ScorerSpec(name="taste", model_path=str(model), config=RewardModelConfig(**config))


class WeighedRank(ScorerRank):
    """A rank that says in each score how many weights it holds between forward passes."""

    def score(self, items: Any) -> Any:
        scores = super().score(items)
        share: Any = self._model._model
        held = sum(parameter.numel() for parameter in share._module.parameters())
        return {row: replace(score, detail=str(held)) for row, score in scores.items()}


class WeighedFleet(ScorerFleet):
    rank_type = WeighedRank


class PoisonedRank(ScorerRank):
    """A rank that one response kills, and that another one makes raise."""

    def score(self, items: Any) -> Any:
        responses = [item.response for item in items]
        if "deadly" in responses:
            os.kill(os.getpid(), signal.SIGKILL)
        if "raises" in responses:
            raise MemoryError("no room for this one")
        return super().score(items)


class PoisonedFleet(ScorerFleet):
    rank_type = PoisonedRank


def test_replicas_share_the_work_and_answer_in_order(model: Path, run: Run) -> None:
    fleet = ScorerFleet(spec_of(model, num_replicas=2))
    expected = [score.value for score in ScoringModel(str(model)).score_blocking(ITEMS)]

    async def scores() -> list[Any]:
        await fleet.start()
        try:
            return await fleet.score(ITEMS)
        finally:
            await fleet.close()

    assert [score.value for score in run(scores())] == pytest.approx(expected, abs=1e-4)


def test_a_lost_replica_is_replaced_and_its_samples_are_judged(model: Path, run: Run) -> None:
    fleet = ScorerFleet(spec_of(model, num_replicas=1, max_restarts=1))

    async def scores() -> tuple[list[Any], list[Any]]:
        await fleet.start()
        before = await fleet.score(ITEMS)
        waiting = asyncio.create_task(fleet.score(ITEMS))
        await asyncio.sleep(0.01)
        (replica,) = fleet.replicas.values()
        replica.end()
        try:
            return before, await waiting
        finally:
            await fleet.close()

    before, after = run(scores())
    assert [score.value for score in after] == pytest.approx([score.value for score in before], abs=1e-4)


def test_ranks_hold_a_model_together_answer_like_a_whole_copy_and_are_lost_together(run: Run, tmp_path: Path) -> None:
    """One rank of two is killed while both score: the replica is replaced, and the samples are judged by the next."""
    # Larger than what ZeRO-3 leaves whole on every rank.
    folder = make_reward_model(tmp_path, intermediate_size=512)
    whole = AutoModelForSequenceClassification.from_pretrained(folder)
    expected = [score.value for score in ScoringModel(str(folder)).score_blocking(ITEMS)]
    fleet = WeighedFleet(spec_of(folder, ranks_per_replica=2, max_restarts=1, tokens_per_batch=500))

    async def scores() -> tuple[list[Any], list[Any], bool]:
        await fleet.start()
        (first,) = fleet.replicas.values()
        before = await fleet.score(ITEMS)
        waiting = asyncio.create_task(fleet.score(ITEMS))
        await asyncio.sleep(0.01)
        ray.kill(first.ranks[1])
        try:
            after = await waiting
            (second,) = fleet.replicas.values()
            return before, after, first is second
        finally:
            await fleet.close()

    before, after, is_same_replica = run(scores())
    assert [score.value for score in before] == pytest.approx(expected, abs=1e-5)
    assert [score.value for score in after] == pytest.approx(expected, abs=1e-5)
    assert not is_same_replica
    assert max(int(score.detail) for score in before) < whole.num_parameters() / 2


def test_poison_costs_its_own_samples_and_the_last_replica_ends_the_fleet(model: Path, run: Run) -> None:
    fleet = PoisonedFleet(spec_of(model, num_replicas=1, max_restarts=2))
    deadly, raises = (RewardInput(prompt="?", response=word, answer=None) for word in ("deadly", "raises"))

    async def poison() -> None:
        await fleet.start()
        (score,) = await fleet.score([raises])
        assert score.status is Status.ERROR and "no room for this one" in score.detail
        (score,) = await fleet.score([deadly])
        assert score.status is Status.ERROR and "2 replicas were lost on it" in score.detail
        (score,) = await fleet.score(ITEMS[:1])
        assert score.status is Status.OK
        (score,) = (await fleet.score([deadly]))[:1]

    with pytest.raises(RewardOutage, match="no replica is left"):
        run(poison())
    run(fleet.close())


def test_a_pool_composes_a_rule_with_a_model(model: Path, run: Run, tmp_path: Path) -> None:
    """The model is asked where the rule abstains, and its verdict is clipped and weighed like any other."""
    (tmp_path / "rule.py").write_text("def rule(item): return 1 if item.id == 'known' else None")
    specs = [
        RewardSpec(use="rule.py:rule"),
        RewardSpec(use=f"model:{model}", instead_of="rule", weight=2.0, clip=(-0.5, 0.5)),
    ]
    fleet = ScorerFleet(spec_of(model))
    pool = RewardPool(specs, RewardPoolConfig(), tmp_path, scorers={"model": fleet})
    items = [RewardInput(prompt="?", response="yes", answer=None, id=name) for name in ("known", "unknown")]
    expected = ScoringModel(str(model)).score_blocking(items[1:])[0].value or 0

    async def scores() -> list[Any]:
        pool.start(items)
        await fleet.start()
        try:
            return await pool.score(items)
        finally:
            await fleet.close()
            pool.close()

    known, unknown = run(scores())
    assert known.value == 1 and "model" not in known.parts
    assert unknown.value == pytest.approx(2 * min(max(expected, -0.5), 0.5), abs=1e-4)


def test_files_that_are_no_reward_model_are_refused_before_anything_starts(tmp_path: Path) -> None:
    fleet = ScorerFleet(spec_of(tmp_path / "missing"))
    pool = RewardPool([RewardSpec(use=f"model:{tmp_path / 'missing'}")], RewardPoolConfig(), scorers={"model": fleet})
    with pytest.raises(RewardError, match=r"rewards: taste: model:.*missing: not a folder"):
        pool.start()


def test_a_model_that_does_not_load_is_named_and_not_tried_again(model: Path, run: Run, tmp_path: Path) -> None:
    folder = make_reward_model(tmp_path)
    (folder / "tokenizer.json").write_text("{}")
    fleet = ScorerFleet(spec_of(folder))
    with pytest.raises(RewardError, match=r"taste: .*no tokenizer could be loaded"):
        run(fleet.start())
    run(fleet.close())
