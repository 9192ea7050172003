"""The main number of a stage, from what its run logged."""

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.stage_numbers import number_of_evaluation, number_of_run

ACCURACY = {"eval/accuracy": 0.3, "eval/accuracy_low": 0.2, "eval/accuracy_high": 0.4}
BETTER = {"eval/accuracy": 0.675, "eval/accuracy_low": 0.6, "eval/accuracy_high": 0.75}
PAIRS = {
    "eval/preference_accuracy": 0.9,
    "eval/preference_accuracy_low": 0.8,
    "eval/preference_accuracy_high": 1,
}


@pytest.mark.parametrize(
    ("lines", "number"),
    [
        ([ACCURACY, {}, BETTER], "held-out accuracy 30.0 % -> 67.5 % (60.0 to 75.0)"),
        ([{}, {}, BETTER], "held-out accuracy 67.5 % (60.0 to 75.0)"),
        ([{}, PAIRS], "held-out pairs 90.0 % (80.0 to 100.0)"),
        ([{}, {"supervised/loss": 2, "eval/loss": 1.5}, {"supervised/loss": 1}], "held-out loss 1.500"),
        ([{"supervised/loss": 2}, {"supervised/loss": 1}], "loss 1.000"),
        ([{}, {"reward/mean": 0.25}], "reward 0.250"),
        ([{}], ""),
    ],
)
def test_the_last_held_out_number_counts_most(tmp_path: Path, lines: list[dict[str, Any]], number: str) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("".join(json.dumps({"step": step, **line}) + "\n" for step, line in enumerate(lines)))
    assert number_of_run(metrics) == number


def test_an_evaluation_of_two_models_tells_how_often_the_first_wins() -> None:
    alone = {"models": [{"mean": {"greedy accuracy": {"value": 0.5, "low": 0.4, "high": 0.6}}}]}
    assert number_of_evaluation(alone) == "greedy accuracy 50.0 % (40.0 to 60.0)"
    rates = {
        "greedy win rate": {"value": 0.7, "low": 0.6, "high": 0.8},
        "sampled win rate": {"value": 0.75, "low": 0.7, "high": 0.8},
    }
    compared = {**alone, "comparison": {"all": {"win_rates": rates}}}
    assert number_of_evaluation(compared) == (
        "greedy accuracy 50.0 % (40.0 to 60.0), sampled win rate 75.0 % (70.0 to 80.0)"
    )
    rates["sampled win rate"] = dict.fromkeys(("value", "low", "high"))
    assert number_of_evaluation(compared) == "greedy accuracy 50.0 % (40.0 to 60.0)"
