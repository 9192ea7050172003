"""Whole guarded runs over light roles: gold peaks after four updates, while the proxy rises with each."""

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from algorithms.table import resolve
from cluster import reinforce
from cluster.exporting import export
from cluster.folder import RunFolder
from cluster.outcome import Outcome
from cluster.restarts import Resumed
from cluster.steering import Steering
from configs.schema import ExportStage, RlRun
from experience.columns import Place, places_of
from experience.records import Batch, Prompt, Sampling, Trajectory, Weights
from metrics.names import PASSING
from rewards.contract import RewardInput, Score
from tests.cluster.tiny_recipes import recipe
from tests.trainers.test_loop import Numbers, Recorder, Sampler, trajectory
from trainers import checkpoint
from trainers.checkpoint import Written
from trainers.roles import Roles

PEAK = 4  # updates


class Counting(Recorder):
    """Its only weight is the number of updates that it has taken."""

    def __init__(self) -> None:
        super().__init__([])
        self.weight = 0

    async def update(self, batch: Batch) -> Mapping[str, float]:
        self.weight += 1
        return await super().update(batch)

    async def publish(self, version: int) -> Weights:
        return Weights(version=version, checksum=str(self.weight), handle=self.weight)

    async def divergences(self, batch: Batch) -> Mapping[Place, float]:
        return dict.fromkeys(places_of(batch), float(self.weight**2))

    async def save(self, draft: Path) -> Written:
        (draft / "policy").mkdir()
        (draft / "policy" / "weight").write_text(str(self.weight))
        return Written(world_size=1, config_digest="")

    async def load(self, folder: Path) -> Mapping[str, Any]:
        checkpoint.verify(folder)
        self.weight = int((folder / "policy" / "weight").read_text())
        return checkpoint.read_state(folder)

    async def export(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)  # noqa: ASYNC240 - nothing else runs
        (folder / "weight").write_text(str(self.weight))


class Telling(Sampler):
    """Each response tells the weight that it was sampled with."""

    async def load(self, weights: Weights) -> None:
        self.weight = weights.handle
        await super().load(weights)

    async def generate(self, prompt: Prompt, sampling: Sampling) -> tuple[Trajectory, ...]:
        weight = self.weight
        samples = [trajectory(prompt, index, self.version) for index in range(sampling.num_samples)]
        return tuple(replace(sample, text=f"{index} {weight}") for index, sample in enumerate(samples))


class ByWeight:
    """Rewards by the weight that a response tells, beside what differs between prompts and samples."""

    def __init__(self, value: Callable[[int], float]) -> None:
        self._value = value

    async def score(self, items: Sequence[RewardInput]) -> Sequence[Score]:
        told = [tuple(map(int, item.response.split())) for item in items]
        values = [
            self._value(weight) + index + int(item.prompt) % 3
            for item, (index, weight) in zip(items, told, strict=True)
        ]
        return [Score(value=value, parts={"index": value}) for value in values]


class Quiet:
    """Nobody steers."""

    def __init__(self) -> None:
        self.stop = SimpleNamespace(ends=self._ends)

    @contextlib.contextmanager
    def _ends(self, *_: object) -> Iterator[None]:
        yield

    def follow(self, *_: object) -> None: ...
    def write(self, *_: object) -> None: ...
    def close(self) -> None: ...


def train(folder: Path, action: str, *, resume: bool = False, **sections: Any) -> tuple[Outcome, Counting]:
    run = recipe(
        "rl",
        folder,
        **{
            "num_steps": 12,
            "rollout": {"prompts_per_step": 2, "group_size": 2},
            "rewards": [{"use": "length"}],
            "guard": {"gold": [{"use": "exact"}], "every_steps": 2, "num_prompts": 16, "action": action},
            "algorithm": {"name": "grpo", "kl_coef": 0.0},
            "checkpoint": {"every_steps": 2, "keep_best": 1, "keep_last": 1},
            "logging": {"tensorboard": False, "prometheus": False, "trajectories_every_steps": 0},
            "trainer": {"num_ranks": 1, "tokens_per_micro_batch": 512},
            **sections,
        },
    )
    assert isinstance(run, RlRun)
    place, learner = RunFolder(run), Counting()
    inputs = reinforce.Inputs(
        algorithm=resolve(run.algorithm),
        objective=cast("Any", None),
        tokenizer=cast("Any", None),
        prompts=cast("Any", Numbers()),
        held_out=[],
        guarded=Numbers().at(1000, 16),
        max_sequence_tokens=16,
        mixer=None,
    )
    roles = Roles(
        prompts=Numbers(),
        rollouts=Telling([]),
        rewards=ByWeight(float),
        learner=learner,
        gold=ByWeight(lambda weight: -0.3 * abs(weight - PEAK)),
    )

    async def scenario() -> Outcome:
        resumed = None
        if resume:
            newest = checkpoint.all_checkpoints(place.checkpoints)[-1]
            resumed = Resumed(folder=newest, state=await learner.load(newest))
        return await reinforce._train(run, inputs, place, roles, resumed, cast("Steering", Quiet()))

    place.path.mkdir(parents=True, exist_ok=True)
    return asyncio.run(scenario()), learner


def logged(folder: Path) -> list[dict[str, Any]]:
    """Each step's metrics but for times."""
    lines = map(json.loads, (folder / "rl" / "metrics.jsonl").read_text().splitlines())
    passing = ("time", *PASSING)
    return [{name: value for name, value in line.items() if not name.startswith(passing)} for line in lines]


def exported(folder: Path) -> int:
    return int((folder / "rl" / "export" / "weight").read_text())


def kept(folder: Path) -> dict[int, int]:
    """The weight of each checkpoint that is left, by its step."""
    found = checkpoint.all_checkpoints(folder / "rl" / "checkpoints")
    return {checkpoint.step_of(path): int((path / "policy" / "weight").read_text()) for path in found}


def test_the_guard_stops_near_the_peak_and_the_best_is_exported(tmp_path: Path) -> None:
    outcome, _ = train(tmp_path, "stop")
    assert (outcome.step, outcome.is_finished) == (8, True)
    assert exported(tmp_path) == PEAK
    assert kept(tmp_path) == {4: 4, 8: 8}
    looks = {line["step"]: line for line in logged(tmp_path) if "guard/gold" in line}
    assert {step: line["guard/looks_below"] for step, line in looks.items()} == {0: 0, 2: 0, 4: 0, 6: 1, 8: 2}
    assert {step: line["guard/best_step"] for step, line in looks.items()} == {0: 0, 2: 2, 4: 4, 6: 4, 8: 4}
    assert {step: line["guard/kl"] for step, line in looks.items()} == {step: step**2 for step in looks}
    assert looks[8]["guard/gold_since_best"] == pytest.approx(-1.2)
    assert looks[8]["guard/proxy_since_best"] == pytest.approx(4)


def test_a_run_in_two_parts_is_the_same_as_one_left_alone(tmp_path: Path) -> None:
    train(tmp_path / "whole", "stop")
    train(tmp_path / "parts", "stop", num_steps=6)
    assert exported(tmp_path / "parts") == 6  # one over-optimised look is not enough
    train(tmp_path / "parts", "stop", resume=True)
    assert logged(tmp_path / "parts") == logged(tmp_path / "whole")
    assert (exported(tmp_path / "parts"), kept(tmp_path / "parts")) == (PEAK, {4: 4, 8: 8})


def test_a_run_that_the_guard_ended_trains_no_further(tmp_path: Path) -> None:
    train(tmp_path, "stop")
    before = logged(tmp_path), kept(tmp_path)
    outcome, learner = train(tmp_path, "stop", resume=True)
    assert (outcome.step, outcome.is_finished, learner.batches) == (8, True, [])
    assert (logged(tmp_path), kept(tmp_path)) == before
    assert exported(tmp_path) == PEAK


def test_the_best_of_a_run_that_the_guard_ended_is_what_it_exported(tmp_path: Path) -> None:
    train(tmp_path, "stop")
    place = tmp_path / "model"
    stage = ExportStage.model_validate(
        {"stage": "export", "name": "out", "run": str(tmp_path / "rl"), "to": str(place), "checkpoint": "best"}
    )
    assert export(stage, RunFolder(stage)) == "step 4"
    assert (place / "weight").read_text() == str(PEAK)


def test_without_a_best_checkpoint_the_last_step_is_exported(tmp_path: Path) -> None:
    outcome, _ = train(tmp_path, "stop", checkpoint={})
    assert (outcome.step, exported(tmp_path)) == (8, 8)


def test_where_the_beginning_is_best_it_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.cluster.test_guarded_loops.PEAK", 0)
    outcome, _ = train(tmp_path, "stop")
    assert (outcome.step, exported(tmp_path)) == (4, 0)


def test_rolling_back_trains_on_from_the_best_weights_and_ends_the_second_time(tmp_path: Path) -> None:
    outcome, learner = train(tmp_path, "roll_back", num_steps=20)
    steps = {line["step"]: line for line in logged(tmp_path)}
    # Back to 4 after step 8; 6 updates are reached at step 10, 8 at step 12.
    assert [steps[step]["guard/kl"] for step in (8, 10, 12)] == [64, 36, 64]
    assert (outcome.step, outcome.is_finished, exported(tmp_path)) == (12, True, PEAK)
    assert len(learner.batches) == 12
    assert steps[9]["reward/mean"] == pytest.approx(steps[5]["reward/mean"], abs=1)  # sampled with the weight 4
    assert steps[8]["reward/mean"] - steps[9]["reward/mean"] > 2


def test_a_run_that_was_rolled_back_resumes_from_there(tmp_path: Path) -> None:
    train(tmp_path / "whole", "roll_back", num_steps=20)
    train(tmp_path / "parts", "roll_back", num_steps=10)
    assert kept(tmp_path / "parts") == {4: 4, 10: 6}
    train(tmp_path / "parts", "roll_back", resume=True, num_steps=20)
    assert logged(tmp_path / "parts") == logged(tmp_path / "whole")
    assert exported(tmp_path / "parts") == PEAK


def test_lowering_the_kl_target_counts_from_the_next_step_on(tmp_path: Path) -> None:
    outcome, _ = train(tmp_path, "lower_kl", algorithm={"name": "grpo", "kl_coef": 0.01}, num_steps=10)
    coefs = {line["step"]: line["policy/kl_coef"] for line in logged(tmp_path) if line["step"]}
    assert coefs == {step: 0.01 if step <= 8 else 0.02 for step in range(1, 11)}
    assert outcome.step == 10


def test_a_warning_lets_the_run_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    outcome, _ = train(tmp_path, "warn")
    assert (outcome.step, exported(tmp_path)) == (12, 12)
    assert "guard: step 8: over-optimised for 2 looks: since step 4 gold changed by -1.2" in caplog.text


def test_without_kl_everything_else_is_measured(tmp_path: Path) -> None:
    guard = {"gold": [{"use": "exact"}], "every_steps": 2, "num_prompts": 16, "action": "stop", "measure_kl": False}
    train(tmp_path, "stop", guard=guard)
    last = logged(tmp_path)[-1]
    assert "guard/kl" not in last
    assert last["guard/gap"] > 0
