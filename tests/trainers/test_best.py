"""The best checkpoints stay, besides the newest."""

import asyncio
import json
from pathlib import Path

import pytest

from configs.schema import CheckpointConfig
from trainers import checkpoint
from trainers.best import BestRule, ranked
from trainers.checkpoint import Written
from trainers.saving import Saver, Snapshot, state_snapshot

ACCURACY = BestRule(count=2, metric="eval/accuracy", is_higher_better=True)


class Learner:
    async def save(self, draft: Path) -> Written:
        return Written(world_size=1, config_digest="d")


def run(folder: Path, values: dict[int, float | None], rule: BestRule = ACCURACY, keep_last: int = 1) -> list[int]:
    """Save after each step, where so much was measured if anything was; the steps whose checkpoints are left."""

    def snapshot(step: int) -> Snapshot:
        value = values[step]
        return state_snapshot({"step": step, "held_out": {} if value is None else {rule.metric: value}})

    async def scenario() -> None:
        config = CheckpointConfig(every_steps=1, keep_last=keep_last)
        saver = Saver(config, learner=Learner(), folder=folder, snapshot=snapshot, best=rule)
        for step in values:
            await saver.after_step(step)
            saver.recorded(step)
        await saver.close()

    asyncio.run(scenario())
    return [checkpoint.step_of(path) for path in checkpoint.all_checkpoints(folder)]


def test_the_best_few_stay_besides_the_newest_and_a_note_names_them(tmp_path: Path) -> None:
    assert run(tmp_path, {1: 0.5, 2: 0.9, 3: 0.1, 4: 0.8, 5: 0.2}) == [2, 4, 5]
    assert json.loads((tmp_path / "best.json").read_text()) == {
        "metric": "eval/accuracy",
        "better": "higher",
        "best": "step_000002",
        "kept": [
            {"checkpoint": "step_000002", "eval/accuracy": 0.9},
            {"checkpoint": "step_000004", "eval/accuracy": 0.8},
        ],
    }


def test_what_is_no_better_does_not_take_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    assert run(tmp_path, {1: 0.5, 2: 0.5, 3: 0.5, 4: 0.5}) == [1, 2, 4]


def test_a_loss_is_better_when_it_is_lower(tmp_path: Path) -> None:
    rule = BestRule(count=1, metric="eval/loss", is_higher_better=False)
    assert run(tmp_path, {1: 0.5, 2: 0.3, 3: 0.4, 4: 0.6}, rule) == [2, 4]


def test_steps_without_a_number_are_not_judged(tmp_path: Path) -> None:
    assert run(tmp_path, {1: None, 2: float("nan"), 3: None}) == [3]
    assert not (tmp_path / "best.json").exists()


def test_a_resumed_run_judges_by_all_that_are_left(tmp_path: Path) -> None:
    assert run(tmp_path, {1: 0.9, 2: 0.1, 3: 0.2}) == [1, 3]
    assert run(tmp_path, {4: 0.8, 5: 0.3}) == [1, 4, 5]


def test_a_damaged_checkpoint_is_not_judged(tmp_path: Path) -> None:
    run(tmp_path, {1: 0.9, 2: 0.8}, keep_last=2)
    (tmp_path / "step_000001" / "state.json").write_text("{")
    assert [one.folder.name for one in ranked(checkpoint.all_checkpoints(tmp_path), ACCURACY)] == ["step_000002"]


@pytest.mark.parametrize("count", [1, 3])
def test_as_many_stay_as_are_asked_for(tmp_path: Path, count: int) -> None:
    rule = BestRule(count=count, metric="eval/accuracy", is_higher_better=True)
    left = run(tmp_path, {step: 1 / step for step in range(1, 8)}, rule, keep_last=2)
    assert left == [*range(1, count + 1), 6, 7]


def known_by_prompt(folder: Path, steps: dict[int, list[float]], resumed: bool = False) -> str:
    """Save after each of these steps, at which the accuracy of each prompt was this; the best checkpoint."""
    rule = BestRule(count=1, metric="eval/accuracy", is_higher_better=True)

    def snapshot(step: int) -> Snapshot:
        column = steps[step]
        held_out = {"held_out": {rule.metric: sum(column) / len(column)}, "held_out_by_prompt": {rule.metric: column}}
        return state_snapshot({"step": step, **held_out})

    async def scenario() -> None:
        config = CheckpointConfig(every_steps=1, keep_last=3)
        saver = Saver(config, learner=Learner(), folder=folder, snapshot=snapshot, best=rule)
        for step in steps:
            await saver.after_step(step)
            saver.recorded(step)
        await saver.close()

    asyncio.run(scenario())
    return json.loads((folder / "best.json").read_text())["best"]


def right(count: int, total: int = 100) -> list[float]:
    """The first `count` prompts are answered right."""
    return [float(place < count) for place in range(total)]


def test_a_better_number_within_noise_does_not_take_the_place_and_one_beyond_it_does(tmp_path: Path) -> None:
    assert known_by_prompt(tmp_path / "noise", {1: right(50), 2: right(52), 3: right(51)}) == "step_000001"
    assert known_by_prompt(tmp_path / "more", {1: right(50), 2: right(52), 3: right(60)}) == "step_000003"


def test_slow_progress_adds_up_until_it_is_beyond_noise(tmp_path: Path) -> None:
    steps = {step: right(50 + step) for step in range(1, 13)}  # one prompt a step
    best = checkpoint.step_of(tmp_path / known_by_prompt(tmp_path, steps))
    assert best > 6


def test_pairs_tell_what_two_intervals_that_meet_do_not(tmp_path: Path) -> None:
    held_out = {1: (0.50, 0.40, 0.60), 2: (0.58, 0.48, 0.68), 3: (0.75, 0.66, 0.82)}

    def snapshot(step: int) -> Snapshot:
        value, low, high = held_out[step]
        names = {"eval/accuracy": value, "eval/accuracy_low": low, "eval/accuracy_high": high}
        return state_snapshot({"step": step, "held_out": names})

    async def scenario() -> list[str]:
        found = []
        config = CheckpointConfig(every_steps=1, keep_last=1)
        saver = Saver(config, learner=Learner(), folder=tmp_path, snapshot=snapshot, best=ACCURACY)
        for step in held_out:
            await saver.after_step(step)
            saver.recorded(step)
            await saver.settled()
            found.append(json.loads((tmp_path / "best.json").read_text())["best"])
        return found

    assert asyncio.run(scenario()) == ["step_000001", "step_000001", "step_000003"]
    assert known_by_prompt(tmp_path / "pairs", {1: right(50), 2: right(58)}) == "step_000002"


def test_a_resumed_run_goes_on_from_the_best_that_the_note_names(tmp_path: Path) -> None:
    """Step 3 is better than 1, the best before it, beyond noise, and not than 2, from which nothing would follow."""
    first = known_by_prompt(tmp_path, {1: right(50), 2: right(53), 3: right(56)})
    assert first == "step_000003"
    assert known_by_prompt(tmp_path, {4: right(57)}) == "step_000003"
    (tmp_path / "best.json").unlink()
    assert known_by_prompt(tmp_path, {5: right(58)}) == "step_000004"  # from 2 on, the oldest that is left


def test_another_number_of_prompts_makes_no_pairs(tmp_path: Path) -> None:
    assert known_by_prompt(tmp_path, {1: right(50), 2: right(26, total=50)}) == "step_000002"  # the number alone
