"""The best checkpoints of a run by a held-out metric, which are kept besides the newest."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from trainers import checkpoint

NOTE = "best.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class BestRule:
    """Keep so many by this metric, which is better when higher, or when lower."""

    count: int
    metric: str
    is_higher_better: bool


class Ranked(NamedTuple):
    """A checkpoint and the metric's value at its step."""

    folder: Path
    value: float


def ranked(folders: Sequence[Path], rule: BestRule) -> list[Ranked]:
    """The best `rule.count` of those that were evaluated, best first; of equal ones the earlier."""
    measured = [Ranked(folder, value) for folder in folders if (value := _value(folder, rule.metric)) is not None]
    sign = -1 if rule.is_higher_better else 1
    return sorted(measured, key=lambda one: (sign * one.value, checkpoint.step_of(one.folder)))[: rule.count]


def write_note(root: Path, rule: BestRule, best: Sequence[Ranked]) -> None:
    """Name the best checkpoints in `best.json`, whole or not at all."""
    content = {
        "metric": rule.metric,
        "better": "higher" if rule.is_higher_better else "lower",
        "best": best[0].folder.name,
        "kept": [{"checkpoint": one.folder.name, rule.metric: one.value} for one in best],
    }
    draft = root / f".{NOTE}"
    with draft.open("w", encoding="utf-8") as file:
        file.write(json.dumps(content, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(root / NOTE)


def _value(folder: Path, metric: str) -> float | None:
    try:
        value = checkpoint.read_state(folder)[checkpoint.HELD_OUT][metric]
    except (OSError, ValueError, KeyError):  # damaged, or not evaluated
        return None
    return value if isinstance(value, float) and math.isfinite(value) else None
