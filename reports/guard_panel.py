"""Proxy and gold against the distance from the initial policy, and the law that is fitted to gold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from metrics.overoptimisation import Fit, fit
from reports.charts import Legend
from reports.run_data import RunData, Series

_GAINS = ("guard/proxy_gain", "guard/gold_gain")


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One look: the distance, and the gain since the first look with the ends of its interval."""

    step: int
    distance: float
    gain: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardPanel:
    """The looks of one run in the order of steps: `curves` has proxy and gold; `law` is None where none was fitted."""

    title: str
    curves: Mapping[str, Sequence[Point]]
    law: Fit | None

    @property
    def legend(self) -> list[Legend]:
        """Which line is which."""
        names = [Legend(label=name, classes=f"s{place} d0") for place, name in enumerate(self.curves)]
        return [*names, *([] if self.law is None else [Legend(label="law of gold, fitted", classes="s1 d2")])]

    @property
    def meaning(self) -> str:
        """What is drawn, and what was found."""
        drawn = (
            "gains since the first look in its standard deviations, over d = sqrt(KL(policy || reference)) in nats; "
            "bars: 95 % intervals, a prompt as one sample. "
        )
        if self.law is None:
            return drawn + "Too few looks at different distances to fit R(d) = d (alpha - beta log d)."
        peak = self.law.peak
        found = (
            f"R(d) = d (alpha - beta log d): alpha = {self.law.alpha:.3g} ± {self.law.alpha_error:.2g}, "
            f"beta = {self.law.beta:.3g} ± {self.law.beta_error:.2g} (standard errors by the scatter of the looks)"
        )
        if peak is None:
            return f"{drawn}{found}; it has no peak."
        return f"{drawn}{found}; its peak is {self.law.gain(peak):.3g} at d = {peak:.3g}."


def guard_panel(run: RunData) -> GuardPanel | None:
    """None where the run has no looks with a distance."""
    distances = {step: max(value, 0.0) ** 0.5 for step, value in _finite(run, "guard/kl").items()}
    curves = {name.removeprefix("guard/").removesuffix("_gain"): _points(run, name, distances) for name in _GAINS}
    if not all(curves.values()):
        return None
    gold = curves["gold"]
    law = fit([point.distance for point in gold], [point.gain for point in gold])
    return GuardPanel(title=f"Over-optimisation: {run.label}", curves=curves, law=law)


def _points(run: RunData, name: str, distances: Mapping[int, float]) -> list[Point]:
    means, lows, highs = (_finite(run, name + end) for end in ("", "_low", "_high"))
    return [
        Point(step=step, distance=distance, gain=means[step], low=lows[step], high=highs[step])
        for step, distance in distances.items()
        if step in means and step in lows and step in highs
    ]


def _finite(run: RunData, name: str) -> dict[int, float]:
    series: Series | None = run.series.get(name)
    return {} if series is None else dict(series.finite)
