"""The ends of a run's curves, which its findings compare."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from reports.run_data import Series

Tone = Literal["bad", "note", "good"]
Curves = Mapping[str, Series]

MIN_STEPS = 8  # with fewer, a beginning can't be told from an end


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that stands out: what, the evidence in numbers, and what it usually asks for."""

    tone: Tone
    title: str
    evidence: str
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Some steps at one end of a curve: their mean, its standard error by the scatter of the steps, their count."""

    mean: float
    error: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.3g}"


def ends(curves: Curves, name: str) -> tuple[Window | None, Window | None]:
    """The first and the last fifth of a curve, at least 4 steps each; None for a curve that is too short."""
    series = curves.get(name)
    values = [value for _, value in series.finite] if series else []
    if len(values) < MIN_STEPS:
        return None, None
    size = max(4, len(values) // 5)
    return _window(values[:size]), _window(values[-size:])


def _window(values: list[float]) -> Window:
    return Window(mean=fmean(values), error=stdev(values) / len(values) ** 0.5, count=len(values))


def is_below(left: Window, right: Window) -> bool:
    """Whether `right` is higher by more than two standard errors of the difference."""
    return right.mean - left.mean > 2 * (left.error**2 + right.error**2) ** 0.5


def status_share(curves: Curves, statuses: tuple[str, ...]) -> float | None:
    """Share of these verdicts among all of the latest steps."""
    late = {
        name.partition("/")[2]: window
        for name in curves
        if name.startswith("score/") and (window := ends(curves, name)[1]) is not None
    }
    verdicts = sum(window.mean for window in late.values())
    return sum(late[status].mean for status in statuses if status in late) / verdicts if verdicts else None


def gaps(series: Series) -> list[int]:
    """The steps at which the value was NaN or infinite."""
    return [step for step, value in zip(series.steps, series.values, strict=True) if value is None]


def summed(curves: Curves, name: str) -> float:
    """Sum of a curve over all steps; 0 for one that was not logged."""
    return sum(value for _, value in curves[name].finite) if name in curves else 0.0
