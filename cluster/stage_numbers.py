"""The main number of each kind of stage, in words, from what its run logged."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_ACCURACY, _PREFERENCE = "eval/accuracy", "eval/preference_accuracy"


def number_of_run(metrics: Path) -> str:
    """Of a stage that trains; `metrics`: its metrics.jsonl. Empty where nothing of the kind was measured."""
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    for name in (_ACCURACY, _PREFERENCE):
        if measured := [line for line in lines if name in line]:
            return _accuracy(name, measured)
    for name, what in (("eval/loss", "held-out loss"), ("reward/mean", "reward"), ("supervised/loss", "loss"),
                       ("preference/accuracy", "accuracy of training pairs")):  # fmt: skip
        if values := [line[name] for line in lines if name in line]:
            return f"{what} {values[-1]:.3f}"
    return ""


def number_of_evaluation(document: Mapping[str, Any]) -> str:
    """Of the first model of an evaluation's document; where there are two, how often it wins besides."""
    wins = document.get("comparison", {}).get("all", {}).get("win_rates", {})
    last = dict(list(wins.items())[-1:])
    numbers = {"greedy accuracy": document["models"][0]["mean"]["greedy accuracy"], **last}
    return ", ".join(
        f"{name} {with_interval(one['value'], (one['low'], one['high']))}"
        for name, one in numbers.items()
        if one["value"] is not None
    )


def with_interval(accuracy: float, interval: tuple[float, float]) -> str:
    """`67.6 % (63.4 to 71.5)`."""
    low, high = interval
    return f"{100 * accuracy:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def _accuracy(name: str, lines: Sequence[Mapping[str, float]]) -> str:
    first, last = lines[0], lines[-1]
    words = "held-out pairs" if name == _PREFERENCE else "held-out accuracy"
    before = f"{100 * first[name]:.1f} % -> " if first["step"] == 0 and len(lines) > 1 else ""
    return f"{words} {before}{with_interval(last[name], (last[f'{name}_low'], last[f'{name}_high']))}"
