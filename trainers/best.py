"""The best checkpoints of a run by a held-out metric, which are kept besides the newest.

A checkpoint takes the place of the best one only where it is better beyond noise, at the 95 % level:

- where both know the metric of each prompt, and of the same number of prompts: the 95 % interval of the paired
  differences' mean (bootstrap over prompts, metrics/change.py) leaves 0 out, on the right side;
- else, where both have an interval (`NAME_low`, `NAME_high`): the two do not meet, which asks for more;
- else, of a metric without an interval such as a loss over all tokens: the number is better.

So where nothing is ever beyond noise, the first checkpoint that was judged stays the best. A new one is compared with
the best one so far, never with the one before: slow progress adds up until it is beyond noise. `best.json` names the
best, and a resumed run goes on from it; newer checkpoints are held against it in the order of their steps.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metrics.change import change
from trainers import checkpoint

NOTE = "best.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class BestRule:
    """Keep so many by this metric, which is better when higher, or when lower."""

    count: int
    metric: str
    is_higher_better: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A checkpoint and the metric at its step; `ends`: of its interval, `by_prompt`: [P], where they are known."""

    folder: Path
    value: float
    ends: tuple[float, float] | None = None
    by_prompt: Sequence[float] = field(default=())

    def is_better(self, other: "Judged", *, is_higher_better: bool) -> bool:
        """Beyond noise: see above."""
        if not is_higher_better:
            return self._turned().is_better(other._turned(), is_higher_better=True)
        if self.by_prompt and len(self.by_prompt) == len(other.by_prompt):
            return change(self.by_prompt, other.by_prompt).is_above_zero
        if self.ends is not None and other.ends is not None:
            return self.ends[0] > other.ends[1]
        return self.value > other.value

    def _turned(self) -> "Judged":
        ends = None if self.ends is None else (-self.ends[1], -self.ends[0])
        return Judged(folder=self.folder, value=-self.value, ends=ends, by_prompt=[-value for value in self.by_prompt])


def ranked(folders: Sequence[Path], rule: BestRule, known: Path | None = None) -> list[Judged]:
    """The best one, and of the others that were judged the next few by their numbers; of equal ones the earlier.

    `known`: the best one so far, as `known_best` gives it.
    """
    judged = [one for folder in folders if (one := _judged(folder, rule.metric)) is not None]
    if not judged:
        return []
    best = _best(judged, rule, known)
    sign = -1 if rule.is_higher_better else 1
    others = sorted(
        (one for one in judged if one is not best), key=lambda one: (sign * one.value, checkpoint.step_of(one.folder))
    )
    return [best, *others][: rule.count]


def known_best(root: Path, rule: BestRule) -> Path | None:
    """The best one by `best.json`; None where it is not there, or says it of another metric."""
    try:
        note = json.loads((root / NOTE).read_text(encoding="utf-8"))
        return root / note["best"] if note["metric"] == rule.metric else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_note(root: Path, rule: BestRule, best: Sequence[Judged]) -> None:
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


def _best(judged: Sequence[Judged], rule: BestRule, known: Path | None) -> Judged:
    """From the known one on, or else the first, each that is better beyond noise takes its place."""
    best = next((one for one in judged if one.folder == known), judged[0])
    for one in judged:
        is_newer = checkpoint.step_of(one.folder) > checkpoint.step_of(best.folder)
        if is_newer and one.is_better(best, is_higher_better=rule.is_higher_better):
            best = one
    return best


def _judged(folder: Path, metric: str) -> Judged | None:
    """None for a checkpoint that is damaged, or was not judged."""
    try:
        state = checkpoint.read_state(folder)
        measured: Mapping[str, Any] = state[checkpoint.HELD_OUT]
        by_prompt = state.get(checkpoint.BY_PROMPT, {}).get(metric, ())
        value = measured[metric]
    except (OSError, ValueError, KeyError):
        return None
    if not isinstance(value, float) or not math.isfinite(value):
        return None
    ends = measured.get(f"{metric}_low"), measured.get(f"{metric}_high")
    return Judged(
        folder=folder,
        value=value,
        ends=ends if all(isinstance(end, float) and math.isfinite(end) for end in ends) else None,  # type: ignore[arg-type]
        by_prompt=[math.nan if one is None else one for one in by_prompt],
    )
