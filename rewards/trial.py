"""Trying out one reward on rows of data and on hostile answers, without a cluster or a model."""

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.schema.rewards import RewardPoolConfig, RewardSpec
from rewards.agreement import Agreement, compare
from rewards.contract import RewardInput, Score, Scorer, Status
from rewards.hostile import HOSTILE_GOLD, hostile_answers
from rewards.pool import RewardPool

_SLOW_SECONDS = 2.0
_ROUNDING = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A row, its score, and how long it took."""

    id: str
    score: Score
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What became of every row, of the same rows once more, and of the hostile answers."""

    verdicts: tuple[Verdict, ...]
    unstable: tuple[str, ...]  # ids whose second verdict was another
    hostile: tuple[Verdict, ...]

    @property
    def values(self) -> list[float | None]:
        """The value of each row."""
        return [verdict.score.value for verdict in self.verdicts]

    @property
    def fooled(self) -> tuple[Verdict, ...]:
        """Hostile answers worth as much as the best row: the reward took a wrong answer for right."""
        best = max((value for value in self.values if value is not None), default=1.0)
        worst = min((value for value in self.values if value is not None), default=0.0)
        full = best if best > worst else 1.0
        return tuple(v for v in self.hostile if v.score.value is not None and v.score.value >= full)

    def summary(self, labels: Sequence[float | None] | None, other: Sequence[float | None] | None) -> dict[str, Any]:
        """All figures, ready for JSON: counts, times, determinism, failures, confusion, disagreement."""
        seconds = sorted(verdict.seconds for verdict in self.verdicts) or [0.0]
        scored = [value for value in self.values if value is not None]
        failed = [v for v in self.verdicts if v.score.status.is_failure]
        return {
            "rows": len(self.verdicts),
            "statuses": dict(Counter(v.score.status.value for v in self.verdicts)),
            "mean": sum(scored) / len(scored) if scored else None,
            "values": dict(Counter(f"{value:g}" for value in scored).most_common(10)),
            "seconds_p50": seconds[len(seconds) // 2],
            "seconds_p99": seconds[min(len(seconds) - 1, int(0.99 * len(seconds)))],
            "is_deterministic": not self.unstable,
            "unstable": list(self.unstable[:5]),
            "failures": [{"id": v.id, "status": v.score.status.value, "detail": v.score.detail} for v in failed[:5]],
            "hostile": {
                "answers": len(self.hostile),
                "taken_for_right": [v.id for v in self.fooled],
                "failures": sum(v.score.status is Status.ERROR for v in self.hostile),
                "slower_than_2_seconds": [v.id for v in self.hostile if v.seconds > _SLOW_SECONDS],
            },
            "labels": _agreement(self.values, labels, self.verdicts),
            "other": _agreement(self.values, other, self.verdicts),
        }


def try_out(
    spec: RewardSpec,
    rows: Sequence[RewardInput],
    limits: RewardPoolConfig,
    folder: Path,
    scorers: Mapping[str, Scorer] | None = None,
) -> Trial:
    """Judge every row alone on the clock, all once more in a fresh pool, then the hostile answers.

    `scorers`: as RewardPool takes them. RewardError when the reward cannot be loaded or breaks the contract on the
    first two rows.
    """
    first = RewardPool([spec], limits, folder, is_caching=False, scorers=scorers)
    try:
        first.start(rows)
        verdicts = tuple(_timed(first, row) for row in rows)
        columns = dict(rows[0].columns) if rows else {}
        hostile = tuple(
            _timed(first, RewardInput(prompt="", response=text, answer=HOSTILE_GOLD, columns=columns, id=name))
            for name, text in hostile_answers()
        )
    finally:
        first.close()
    second = RewardPool([spec], limits, folder, is_caching=False, scorers=scorers)
    try:
        second.start(rows)
        again = second.score_blocking(rows)
    finally:
        second.close()
    unstable = tuple(v.id for v, score in zip(verdicts, again, strict=True) if _differ(v.score.value, score.value))
    return Trial(verdicts=verdicts, unstable=unstable, hostile=hostile)


def _differ(left: float | None, right: float | None) -> bool:
    """By more than rounding: a model's value depends a little on the samples that it is batched with."""
    if left is None or right is None:
        return left is not right
    return not math.isclose(left, right, rel_tol=_ROUNDING, abs_tol=_ROUNDING)


def _timed(pool: RewardPool, row: RewardInput) -> Verdict:
    started = time.perf_counter()
    (score,) = pool.score_blocking([row])
    return Verdict(id=row.id, score=score, seconds=time.perf_counter() - started)


def _agreement(
    values: Sequence[float | None], reference: Sequence[float | None] | None, verdicts: Sequence[Verdict]
) -> dict[str, Any] | None:
    if reference is None:
        return None
    result: Agreement = compare(values, reference)
    return {
        "compared": result.num_compared,
        "share": result.share,
        "kappa": result.kappa,
        "both_right": result.both_right,
        "only_this": result.only_scorer,
        "only_reference": result.only_reference,
        "both_wrong": result.both_wrong,
        "disagreements": [verdicts[row].id for row in result.disagreements[:10]],
    }
