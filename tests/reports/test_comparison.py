"""Two runs beside each other: what differs, and from where on."""

from pathlib import Path
from typing import Any

import pytest

from reports.comparison import compare
from reports.recipe import changed_settings, flat, has_token_advantages
from reports.run_data import read_runs
from tests.reports.made_runs import learning, make_run


def other(step: int) -> dict[str, float]:
    """The same, but for the time from the start and the reward from step 5 on."""
    values = dict(learning(step)) | {"time/step": 9.0}
    return values | {"reward/mean": 0.125} if step >= 5 else values


def compared(folder: Path, **changes: Any):
    return compare(read_runs([make_run(folder, "left"), make_run(folder, "right", **changes)]))


def test_runs_part_where_their_numbers_first_differ_time_aside(tmp_path: Path) -> None:
    comparison = compared(tmp_path, metrics=other)
    assert comparison.parting is not None
    assert (comparison.parting.step, comparison.parting.names) == (5, ("reward/mean",))


def test_equal_runs_do_not_part(tmp_path: Path) -> None:
    comparison = compared(tmp_path)
    assert comparison.parting is None
    assert (comparison.num_common_steps, list(comparison.settings)) == (20, [])


def test_metrics_stand_at_the_last_common_step_and_at_each_end_with_intervals(tmp_path: Path) -> None:
    comparison = compared(tmp_path, num_steps=40, stored=(20, 40))
    pairs = {pair.name: pair for pair in comparison.metrics}
    reward = pairs["reward/mean"]
    assert reward.common is not None and reward.last[1] is not None
    assert [(r.step, r.value) for r in reward.common] == [(20, learning(20)["reward/mean"])] * 2
    assert (reward.last[1].step, reward.last[1].value) == (40, learning(40)["reward/mean"])
    assert reward.common[0].interval == reward.common[1].interval is not None
    accuracy = pairs["eval/accuracy"].last[1]
    assert accuracy is not None and accuracy.interval == (
        learning(40)["eval/accuracy_low"],
        learning(40)["eval/accuracy_high"],
    )


def test_settings_that_an_algorithms_row_decides_differ_too(tmp_path: Path) -> None:
    comparison = compared(tmp_path, algorithm={"name": "rloo"}, seed=7)
    found = {setting.key: setting.values for setting in comparison.settings}
    assert found["algorithm.name"] == ("grpo", "rloo")
    assert found["algorithm.loss"] == ("clip", "reinforce")
    assert found["algorithm.kl_coef"] == ("0.01", "0")
    assert found["seed"] == ("0", "7")
    assert "name" not in found


def test_what_differs_from_the_defaults_is_what_the_recipe_says(tmp_path: Path) -> None:
    (run,) = read_runs([make_run(tmp_path, rewards=[{"use": "math", "weight": 0.5}])])
    changed = {setting.key: (setting.values[0], setting.default) for setting in changed_settings([run.recipe])}
    assert changed["algorithm.kl_coef"] == ("0.01", "null")
    assert changed["rewards.0.weight"] == ("0.5", "1")
    assert changed["num_steps"] == ("200", None)
    assert changed.keys() & {"seed", "trainer.collective_timeout_seconds", "reward_pool.max_error_rate"} == set()
    assert "optimizer.learning_rate" not in changed
    assert all(setting.meaning for setting in changed_settings([run.recipe]))


def test_lists_of_sections_are_numbered_and_other_lists_are_values() -> None:
    assert flat({"a": {"b": 1}, "rewards": [{"use": "math"}, {"use": "x"}], "tags": ["p", "q"], "none": {}}) == {
        "a.b": 1,
        "rewards.0.use": "math",
        "rewards.1.use": "x",
        "tags": ["p", "q"],
        "none": {},
    }


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        ({"name": "grpo", "kl_coef": None}, False),
        ({"name": "ppo"}, True),
        ({"name": "reinforce", "gamma": None}, False),
        ({"name": "reinforce", "gamma": 0.9}, True),
        ({"name": "rows.py:mine"}, False),
    ],
)
def test_whose_tokens_have_advantages_of_their_own_is_known(algorithm: dict[str, Any], expected: bool) -> None:
    assert has_token_advantages({"algorithm": algorithm}) is expected
    assert not has_token_advantages({"stage": "sft"})
