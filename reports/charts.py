"""Which curves are shown together, under which title, and in which part of the page."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from reports.run_data import RunData, Series, row_of
from reports.samples import reward_intervals

LEARNING, GUARD, POLICY, SAMPLING, REWARDS, SPEED, OTHER = (
    "What was learned", "Proxy and gold", "How the policy moved", "Engine and trainer", "Rewards and groups",
    "Time and memory", "Other",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One chart: its metrics, and the pair that bounds the first of them, where one is logged."""

    section: str
    title: str
    names: tuple[str, ...]
    bounds: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One metric of one run. `colour` and `dash` are numbers of the style sheet; `band`: step -> interval."""

    label: str
    run: int
    series: Series
    colour: int
    dash: int = 0
    band: Mapping[int, tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Legend:
    """One entry beside a chart; `classes` are those of its line."""

    label: str
    classes: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Curves over steps that share a unit."""

    title: str
    unit: str
    meaning: str
    curves: tuple[Curve, ...]

    @property
    def legend(self) -> list[Legend]:
        """Which line is which; empty for a single one."""
        entries = [Legend(label=c.label, classes=f"s{c.colour % 8} d{c.dash % 4}") for c in self.curves]
        return entries if len(entries) > 1 else []

    @property
    def constant(self) -> float | None:
        """The one value that every curve has at every step; None where there are several, or one step alone."""
        values = {value for curve in self.curves for value in curve.series.values}
        is_flat = len(values) == 1 and all(len(curve.series.steps) > 1 for curve in self.curves)
        return values.pop() if is_flat else None


def _specs(section: str, charts: Mapping[str, str]) -> Iterator[Spec]:
    for title, names in charts.items():
        yield Spec(section=section, title=title, names=tuple(names.split()))


def _guard_specs(charts: Mapping[str, str]) -> Iterator[Spec]:
    """Each with the interval that is logged beside it."""
    for title, name in charts.items():
        yield Spec(section=GUARD, title=title, names=(name,), bounds=(f"{name}_low", f"{name}_high"))


SPECS = (
    Spec(section=LEARNING, title="Reward", names=("reward/mean",)),
    Spec(
        section=LEARNING,
        title="Held-out accuracy",
        names=("eval/accuracy",),
        bounds=("eval/accuracy_low", "eval/accuracy_high"),
    ),
    Spec(
        section=LEARNING,
        title="Held-out preferences rated right",
        names=("eval/preference_accuracy", "preference/accuracy"),
        bounds=("eval/preference_accuracy_low", "eval/preference_accuracy_high"),
    ),
    *_specs(
        LEARNING,
        {
            "Parts of the reward": "reward/<part>",
            "Spread of the reward": "reward/std",
            "Held-out pass@k": "eval/pass_at_k",
            "Held-out reward": "eval/reward_mean",
            "Cross-entropy": "supervised/loss eval/loss mixed/loss",
            "Perplexity": "supervised/perplexity eval/perplexity",
            "Preference loss": "preference/loss eval/preference_loss",
            "Rewards of a pair": "preference/chosen_reward preference/rejected_reward preference/reward_difference",
            "Distance from the reference": "preference/drift",
            "Brier score": "preference/brier eval/preference_brier",
            "Calibration error": "preference/calibration_error eval/preference_calibration_error",
        },
    ),
    *_guard_specs(
        {
            "Proxy": "guard/proxy",
            "Gold": "guard/gold",
            "Proxy since the first look": "guard/proxy_gain",
            "Gold since the first look": "guard/gold_gain",
            "Gap between proxy and gold": "guard/gap",
            "Proxy since the best look": "guard/proxy_since_best",
            "Gold since the best look": "guard/gold_since_best",
            "KL from the reference, of a response": "guard/kl",
            "Drift of length": "guard/length_drift",
            "Drift of repetition": "guard/repetition_drift",
        }
    ),
    *_specs(
        GUARD,
        {
            "Best look": "guard/best_step",
            "Over-optimised looks in a row": "guard/looks_below",
            "Actions of the guard": "guard/actions",
        },
    ),
    *_specs(
        POLICY,
        {
            "KL from the reference": "policy/kl_ref",
            "KL of one update": "policy/kl_old",
            "Entropy": "policy/entropy",
            "Response length": "response/length_mean response/length_max eval/response_length_mean",
            "Responses cut": "response/truncated_fraction",
            "Clipped tokens": "policy/clip_fraction_low policy/clip_fraction_high",
            "Importance ratio": "policy/ratio_mean",
            "Largest ratio": "policy/ratio_max",
            "Policy loss": "policy/loss",
            "Gradient norm": "optimizer/grad_norm critic/grad_norm",
            "Updates skipped": "optimizer/skipped_steps critic/skipped_steps",
            "Learning rate": "optimizer/learning_rate critic/learning_rate",
            "KL coefficient": "policy/kl_coef",
            "Value loss": "value/loss",
            "Return": "value/return_mean",
            "Values clipped": "value/clip_fraction",
            "Explained variance": "value/explained_variance",
        },
    ),
    *_specs(
        SAMPLING,
        {
            "Mismatch, KL": "mismatch/kl",
            "Mismatch, mean": "mismatch/mean_abs",
            "Mismatch, largest": "mismatch/max_abs",
            "Correction weight": "mismatch/weight_mean",
            "Tokens left out": "mismatch/masked_fraction",
            "Staleness": "staleness/mean staleness/max",
        },
    ),
    *_specs(REWARDS, {"Groups with equal rewards": "group/equal_fraction", "Groups dropped": "group/dropped"}),
    *_specs(
        SPEED,
        {
            "Tokens trained a second": "throughput/tokens_per_second",
            "Sequences trained a second": "throughput/sequences_per_second",
            "Model FLOPs utilisation": "throughput/mfu",
            "Work of a rank": "throughput/tflops_per_rank",
            "Memory": "memory/host_peak memory/device_allocated memory/device_reserved",
        },
    ),
)
_ELSEWHERE = ("time/", "share/", "score/")  # shown as stacks


def make_charts(runs: Sequence[RunData]) -> dict[str, list[Chart]]:
    """Section -> its charts, of all runs together; metrics that no chart names come last, each in one of its own."""
    sections: dict[str, list[Chart]] = {name: [] for name in (LEARNING, GUARD, POLICY, SAMPLING, REWARDS, SPEED, OTHER)}
    bands = [reward_intervals(run) for run in runs]
    for spec in (*SPECS, *_other_specs(runs)):
        chart = _chart(spec, runs, bands)
        if chart.curves:
            sections[spec.section].append(chart)
    return sections


def _other_specs(runs: Sequence[RunData]) -> Iterator[Spec]:
    """Charts for what the table above leaves out."""
    named = {name for spec in SPECS for name in (*spec.names, *(spec.bounds or ()))}
    for name in dict.fromkeys(name for run in runs for name in run.series):
        is_part = name.startswith("reward/")
        if name not in named and not is_part and not name.startswith(_ELSEWHERE):
            yield Spec(section=OTHER, title=name, names=(name,))


def _chart(spec: Spec, runs: Sequence[RunData], bands: Sequence[Mapping[int, tuple[float, float]]]) -> Chart:
    names = _names(spec, runs)
    curves = []
    for number, run in enumerate(runs):
        for place, name in enumerate(names):
            if name not in run.series:
                continue
            label = name if len(runs) == 1 else run.label if len(names) == 1 else f"{run.label}: {name}"
            band = bands[number] if name == "reward/mean" else _bounds(run, spec) if place == 0 else {}
            # One run: a colour for each metric. Several: a colour for each run, a dash for each metric.
            colour, dash = (place, 0) if len(runs) == 1 else (number, place)
            curves.append(Curve(label=label, run=number, series=run.series[name], colour=colour, dash=dash, band=band))
    row = row_of(names[0]) if names else None
    meaning = "; ".join(f"{name}: {row_of(name).meaning}" for name in names)
    if any(curve.band for curve in curves):
        is_reward = spec.names == ("reward/mean",)
        meaning += f"; band: 95 % interval{', the samples of a prompt as one cluster' if is_reward else ''}"
    return Chart(title=spec.title, unit=row.unit if row else "", meaning=meaning, curves=tuple(curves))


def _names(spec: Spec, runs: Sequence[RunData]) -> list[str]:
    """The spec's metrics that some run has; `reward/<part>` stands for all parts."""
    present = dict.fromkeys(name for run in runs for name in run.series)
    if spec.names == ("reward/<part>",):
        return [name for name in present if name.startswith("reward/") and name not in ("reward/mean", "reward/std")]
    return [name for name in spec.names if name in present]


def _bounds(run: RunData, spec: Spec) -> dict[int, tuple[float, float]]:
    if spec.bounds is None or any(name not in run.series for name in spec.bounds):
        return {}
    low, high = (dict(run.series[name].finite) for name in spec.bounds)
    return {step: (low[step], high[step]) for step in low.keys() & high.keys()}
