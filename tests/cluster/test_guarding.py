"""The guard in a run: when it looks, what each action does, what recipes it refuses."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from algorithms.table import resolve
from cluster.guarding import Guard, Hands
from cluster.rl_checks import check_objective
from configs.dump import dump_run
from configs.load import load_run
from configs.schema import AlgorithmConfig, GuardConfig, RlRun
from tests.cluster.tiny_recipes import recipe
from tests.trainers.test_guard import look
from trainers.credit import BatchShape, CreditAssigner
from trainers.guard import Look

GOLD = [{"use": "exact"}]
PEAKED = [0.0, 1.0, 0.8, 0.6, 0.4, 0.2]


class Scripted:
    """Gold as it is told, look by look; the proxy rises."""

    def __init__(self, golds: Sequence[float]) -> None:
        self._golds = golds

    async def look(self, step: int) -> Look:
        return look(step, gold=self._golds[step // 10], proxy=float(step))


def guarded(
    folder: Path,
    golds: Sequence[float] = PEAKED,
    *,
    best: int | None = 10,
    state: Any = None,
    begin: int = 0,
    until: int = 50,
    **keys: Any,
) -> tuple[Guard, list[str]]:
    """Steps up to where the guard ends the run, or to `until`, with looks every 10; what it did, in order."""
    done: list[str] = []
    steps = iter(range(begin + 10, until + 10, 10))

    async def load(checkpoint: Path) -> None:
        done.append(f"load {checkpoint.name}")

    async def publish() -> None:
        done.append("publish")

    async def settled() -> None:
        done.append("settled")

    def tighten(factor: float) -> str:
        done.append(f"kl {factor}")
        return "tighter"

    if best is not None:
        (folder / f"step_{best:06d}").mkdir(exist_ok=True)
        (folder / "best.json").write_text(json.dumps({"best": f"step_{best:06d}"}))
    hands = Hands(
        checkpoints=folder, keeps_best=best is not None, end=lambda: done.append("end"), tighten_kl=tighten,
        settled=settled, load=load, publish=publish,
    )  # fmt: skip
    config = GuardConfig.model_validate({"gold": GOLD, "every_steps": 10, "patience": 2, **keys})
    guard = Guard(config, Scripted(golds), hands, has_kl=keys.pop("has_kl", False), num_steps=50)
    if state is not None:
        guard.restore(state)

    async def run() -> None:
        await guard.begin(begin)
        for step in steps:
            if guard.has_ended:
                return
            await guard.after_step(step - 1)  # no look is due
            await guard.after_step(step)

    asyncio.run(run())
    return guard, done


def test_a_warning_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    guard, done = guarded(tmp_path, action="warn")
    assert done == []
    assert guard.state.num_actions == 2  # after steps 30 and 50
    assert "step 30: over-optimised for 2 looks: since step 10 gold changed by -0." in caplog.text


def test_stop_ends_with_the_best_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    guard, done = guarded(tmp_path, action="stop")
    assert done == ["settled", "end"]
    assert guard.state.ended_with == 10
    asyncio.run(guard.load_end(30))
    assert done[2:] == ["load step_000010"]
    assert "the run ends here; step 10 is exported (the best checkpoint)" in caplog.text


def test_stop_without_a_best_checkpoint_says_that_the_last_is_exported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    guard, done = guarded(tmp_path, best=None, action="stop")
    assert guard.state.ended_with == 30
    asyncio.run(guard.load_end(30))
    assert done == ["settled", "end"]
    assert "step 30 is exported (no best checkpoint is kept: see checkpoint.keep_best)" in caplog.text


def test_lower_kl_acts_again_after_as_many_looks(tmp_path: Path) -> None:
    _, done = guarded(tmp_path, action="lower_kl", kl_factor=0.25)
    assert done == ["kl 0.25", "kl 0.25"]


def test_roll_back_goes_on_from_the_best_and_ends_the_next_time(tmp_path: Path) -> None:
    guard, done = guarded(tmp_path, action="roll_back")
    assert done == ["settled", "load step_000010", "publish", "settled", "end"]
    assert guard.state.ended_with == 10


def test_what_is_gone_back_from_is_not_judged_by_what_it_was(tmp_path: Path) -> None:
    guard, _ = guarded(tmp_path, [*PEAKED[:4], 1.0, 1.0], action="roll_back")
    assert guard.state.num_actions == 1
    assert guard.measured(50)[1].keys() == {"guard/gold"}
    assert guard.measured(30) == ({}, {})


def test_a_resumed_guard_decides_as_if_it_had_not_ended(tmp_path: Path) -> None:
    whole, done = guarded(tmp_path, action="stop")
    half, nothing = guarded(tmp_path, action="stop", until=20)
    assert (nothing, half.state.looks_below) == ([], 1)
    saved = json.loads(json.dumps(half.state.as_json()))
    resumed, again = guarded(tmp_path, action="stop", state=saved, begin=20)
    assert (resumed.state, again) == (whole.state, done)


def test_a_run_that_was_ended_stays_ended(tmp_path: Path) -> None:
    guard, _ = guarded(tmp_path, action="stop")
    again, done = guarded(tmp_path, action="stop", state=guard.state.as_json(), begin=30)
    assert done == ["end"]
    assert again.state == guard.state


def test_a_guard_that_comes_later_begins_where_it_comes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    guard, _ = guarded(tmp_path, action="warn", begin=20)
    assert guard.state.first is not None
    assert guard.state.first.step == 20
    assert "first looks at step 20" in caplog.text


@pytest.mark.parametrize(
    ("algorithm", "said", "after"),
    [
        ({"name": "grpo", "kl_coef": 0.1}, "kl_coef goes from 0.1 to 0.2", 0.2),
        ({"name": "grpo", "kl_coef": 0.1, "kl_target": 4.0}, "kl_target goes from 4 to 2", 0.1),
    ],
)
def test_a_tightened_kl_is_resumed(algorithm: dict[str, Any], said: str, after: float) -> None:
    shape = BatchShape(mini_batches=1, epochs=1, num_ranks=1, tokens_per_micro_batch=64, max_response_tokens=4)
    assigner, again = (CreditAssigner(resolve(AlgorithmConfig.model_validate(algorithm)), shape) for _ in range(2))
    assert said in assigner.tighten_kl(0.5)
    again.restore(json.loads(json.dumps(assigner.state())))
    assert again.state() == assigner.state()
    assert again.state()["kl_coef"] == after
    assert again.tighten_kl(0.5) == assigner.tighten_kl(0.5)


def checked(folder: Path, **sections: Any) -> None:
    run = recipe("rl", folder, **sections)
    assert isinstance(run, RlRun)
    check_objective(run, resolve(run.algorithm))


SAVED = {"every_steps": 10, "keep_best": 1}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"guard": {"gold": [{"use": "math"}]}}, "'math' .math. is also trained on, as reward 'math'"),
        ({"guard": {"gold": GOLD}, "data": {"train": "prompts.jsonl"}}, "guard without data.eval"),
        ({"guard": {"gold": GOLD, "kl_factor": 0.1}}, "kl_factor has no effect with action=warn"),
        ({"guard": {"gold": GOLD, "action": "stop", "max_roll_backs": 2}}, "max_roll_backs has no effect"),
        ({"guard": {"gold": GOLD, "action": "roll_back"}}, "roll_back with checkpoint.keep_best=0"),
        (
            {"guard": {"gold": GOLD, "action": "roll_back"}, "checkpoint": SAVED, "rollout": {"max_staleness": 1}},
            "roll_back with rollout.max_staleness=1",
        ),
        (
            {"guard": {"gold": GOLD, "action": "lower_kl"}, "algorithm": {"name": "grpo", "kl_coef": 0}},
            "lower_kl with algorithm.kl_coef=0",
        ),
        (
            {"guard": {"gold": GOLD}, "algorithm": {"name": "grpo", "kl_coef": 0.1, "reference_refresh_steps": 5}},
            "measure_kl=true with algorithm.reference_refresh_steps=5",
        ),
        (
            {"guard": {"gold": GOLD, "action": "stop", "every_steps": 15}, "checkpoint": SAVED},
            "guard.every_steps=15 must be a multiple of checkpoint.every_steps=10",
        ),
    ],
)
def test_a_guard_that_could_not_work_is_refused(tmp_path: Path, sections: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, ValidationError), match=message):
        checked(tmp_path, **{"rewards": [{"use": "math"}], **sections})


@pytest.mark.parametrize(
    "rewards",
    [
        [{"use": "length"}, {"use": "exact", "weight": 0}],  # logged, and nothing is learned from it
        [{"use": "exact", "args": {"other": 1}}],
    ],
)
def test_gold_that_is_not_trained_on_is_taken(tmp_path: Path, rewards: list[dict[str, Any]]) -> None:
    checked(tmp_path, rewards=rewards, guard={"gold": GOLD})


def test_a_guarded_recipe_that_is_written_out_loads_to_the_same(tmp_path: Path) -> None:
    run = recipe("rl", tmp_path, model={"path": str(tmp_path)}, guard={"gold": GOLD, "action": "warn"})
    (tmp_path / "config.yaml").write_text(dump_run(run))
    assert load_run(tmp_path / "config.yaml") == run


def test_a_reward_of_no_weight_that_gates_another_is_trained_on(tmp_path: Path) -> None:
    rewards = [{"use": "length", "times": "exact"}, {"use": "exact", "weight": 0}]
    with pytest.raises((ValueError, ValidationError), match="is also trained on"):
        checked(tmp_path, rewards=rewards, guard={"gold": GOLD})
