"""What the guard's looks say: the gap between proxy and gold, drift, and whether the proxy is over-optimised.

Everything is a mean over the same held-out prompts, so changes are paired over them; "beyond noise" is: the 95 %
interval of the paired change (bootstrap over prompts, metrics/change.py) leaves 0 out.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from metrics.change import Interval, change, mean_interval

# P prompts

PROXY, GOLD, KL, LENGTH, REPETITION = "proxy", "gold", "kl", "length", "repetition"


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What was measured at one step: `columns` has [P] of proxy, gold, length, repetition, and kl where it is measured.

    NaN where a prompt lacks a number. `deviations`: standard deviations of proxy and gold over the responses.
    """

    step: int
    columns: Mapping[str, Sequence[float]]
    deviations: Mapping[str, float]

    def as_json(self) -> dict[str, Any]:
        """Plain data, None for NaN."""
        columns = {name: [None if math.isnan(v) else v for v in values] for name, values in self.columns.items()}
        return {"step": self.step, "columns": columns, "deviations": dict(self.deviations)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What `as_json` gave."""
        columns = {name: [math.nan if v is None else v for v in values] for name, values in data["columns"].items()}
        return cls(step=data["step"], columns=columns, deviations=data["deviations"])


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardState:
    """What later looks are judged by; all of it is in a checkpoint.

    `first`: the initial policy's look. `best`: the first look, until one has more gold beyond noise, and so on.
    `looks_below`: over-optimised looks in a row. `num_actions`: how often the guard has acted. `ended_with`: the step
    whose weights the run ended with, where the guard ended it.
    """

    first: Look | None = None
    best: Look | None = None
    looks_below: int = 0
    num_actions: int = 0
    ended_with: int | None = None

    def acted(self) -> "GuardState":
        """The guard has acted: what comes next has as many looks again."""
        return replace(self, looks_below=0, num_actions=self.num_actions + 1)

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        looks = {"first": self.first, "best": self.best}
        counts = {
            "looks_below": self.looks_below,
            "num_actions": self.num_actions,
            "ended_with": self.ended_with,
        }
        return {**{name: None if look is None else look.as_json() for name, look in looks.items()}, **counts}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What `as_json` gave."""
        looks = {name: None if data[name] is None else Look.from_json(data[name]) for name in ("first", "best")}
        return cls(**{**data, **looks})


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What one look says beside the best one before it: `gold` and `proxy` are the paired changes since that."""

    state: GuardState
    gold: Interval
    proxy: Interval
    best_step: int
    metrics: Mapping[str, float]

    @property
    def is_over_optimised(self) -> bool:
        """Gold is below its best beyond noise, and the proxy is not below what it was then."""
        return self.gold.is_below_zero and not self.proxy.is_below_zero

    @property
    def is_collapse(self) -> bool:
        """Both are below: whatever it is, it is no over-optimisation."""
        return self.gold.is_below_zero and self.proxy.is_below_zero


def judge(state: GuardState, look: Look) -> Judgement:
    """What the look says, and the state after it. The first look of all is the best one."""
    first, best = state.first or look, state.best or look
    gold, proxy = (change(look.columns[name], best.columns[name]) for name in (GOLD, PROXY))
    judgement = Judgement(
        state=replace(state, first=first, best=look if gold.is_above_zero else best),
        gold=gold,
        proxy=proxy,
        best_step=best.step,
        metrics=_metrics(look, first),
    )
    looks_below = state.looks_below + 1 if judgement.is_over_optimised else 0
    after = replace(judgement.state, looks_below=looks_below)
    assert after.best is not None
    since = {**_named("gold_since_best", gold), **_named("proxy_since_best", proxy)}
    standing = {"guard/best_step": float(after.best.step), "guard/looks_below": float(looks_below)}
    return replace(judgement, state=after, metrics={**judgement.metrics, **since, **standing})


def _metrics(look: Look, first: Look) -> dict[str, float]:
    """Means as they are; gains of proxy and gold in deviations of the first look, and the gap between them; drift."""
    gains = {name: _gain(look, first, name) for name in (PROXY, GOLD)}
    gap = [p - g for p, g in zip(gains[PROXY], gains[GOLD], strict=True)]
    intervals = {
        **{name: mean_interval(look.columns[name]) for name in (PROXY, GOLD)},
        **{f"{name}_gain": mean_interval(gain) for name, gain in gains.items()},
        "gap": mean_interval(gap),
        **{f"{name}_drift": change(look.columns[name], first.columns[name]) for name in (LENGTH, REPETITION)},
    }
    if KL in look.columns:
        intervals[KL] = mean_interval(look.columns[KL])
    return {name: value for key, interval in intervals.items() for name, value in _named(key, interval).items()}


def _gain(look: Look, first: Look, name: str) -> list[float]:
    """[P] since the first look, in its standard deviations; in plain points where it had none."""
    deviation = first.deviations[name] or 1.0
    return [(n - b) / deviation for n, b in zip(look.columns[name], first.columns[name], strict=True)]


def _named(key: str, interval: Interval) -> dict[str, float]:
    return {
        f"guard/{key}": interval.mean,
        f"guard/{key}_low": interval.low,
        f"guard/{key}_high": interval.high,
    }
