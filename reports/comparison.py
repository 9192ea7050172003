"""Two runs beside each other: settings, metrics, and where they part."""

from collections.abc import Sequence
from dataclasses import dataclass

from metrics.names import PASSING
from reports.recipe import Setting, differing_settings
from reports.run_data import RunData
from reports.samples import reward_intervals

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A metric's value at a step, and its 95 % interval where one is known."""

    step: int
    value: float | None
    interval: Interval | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricPair:
    """One metric of both runs: at the last step that both logged it, and where each has it last."""

    name: str
    common: tuple[Reading, Reading] | None
    last: tuple[Reading | None, Reading | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parting:
    """The first step that both logged with different numbers, and the metrics concerned."""

    step: int
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What differs between two runs. `parting` is None where all numbers of their common steps agree."""

    labels: tuple[str, str]
    settings: Sequence[Setting]
    metrics: Sequence[MetricPair]
    num_common_steps: int
    parting: Parting | None


def compare(runs: Sequence[RunData]) -> Comparison:
    """The comparison of two runs."""
    left, right = runs
    names = [name for name in dict.fromkeys((*left.series, *right.series)) if not name.startswith("share/")]
    rewards = reward_intervals(left), reward_intervals(right)
    return Comparison(
        labels=(left.label, right.label),
        settings=differing_settings([left.recipe, right.recipe]),
        metrics=[_pair(name, (left, right), rewards) for name in names],
        num_common_steps=len(left.times.keys() & right.times.keys()),
        parting=_parting(left, right),
    )


def _pair(name: str, runs: tuple[RunData, RunData], rewards: Sequence[dict[int, Interval]]) -> MetricPair:
    steps = [set(run.series[name].steps) if name in run.series else set() for run in runs]
    common = max(steps[0] & steps[1], default=None)
    left, right = [
        [None if step is None else _reading(name, step, run, intervals) for step in (common, max(own, default=None))]
        for run, own, intervals in zip(runs, steps, rewards, strict=True)
    ]
    both = None if left[0] is None or right[0] is None else (left[0], right[0])
    return MetricPair(name=name, common=both, last=(left[1], right[1]))


def _reading(name: str, step: int, run: RunData, rewards: dict[int, Interval]) -> Reading:
    interval = rewards.get(step) if name == "reward/mean" else None
    bounds = [series.at(step) for side in ("low", "high") if (series := run.series.get(f"{name}_{side}"))]
    if len(bounds) == 2 and bounds[0] is not None and bounds[1] is not None:
        interval = (bounds[0], bounds[1])
    return Reading(step=step, value=run.series[name].at(step), interval=interval)


def _parting(left: RunData, right: RunData) -> Parting | None:
    shared = [name for name in left.series if name in right.series and not name.startswith(PASSING)]
    different: dict[int, list[str]] = {}
    for name in shared:
        ours, theirs = (
            dict(zip(run.series[name].steps, run.series[name].values, strict=True)) for run in (left, right)
        )
        first = min((step for step in ours.keys() & theirs.keys() if ours[step] != theirs[step]), default=None)
        if first is not None:
            different.setdefault(first, []).append(name)
    if not different:
        return None
    step = min(different)
    return Parting(step=step, names=tuple(different[step]))
