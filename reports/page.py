"""The report: one HTML file that holds all it shows, and asks nobody for anything."""

import base64
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from metrics.text import one_line, visible
from metrics.whole_file import whole_file
from reports.charts import Chart, make_charts
from reports.findings import findings
from reports.guard_panel import guard_panel
from reports.recipe import changed_settings, differing_settings
from reports.run_data import RunData, Series, row_of
from reports.sample_view import run_samples
from reports.samples import failure_reasons, left_out
from reports.scale import thinned, tick_label
from reports.stacks import Stack, phase_stack, verdict_stack
from reports.svg import guard_chart, line_chart, stack_chart, timeline
from reports.trace import step_trace

MAX_STEPS = 2000  # of a metric on the page; of a longer run the extremes of each stretch


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One number that tells how a run went, with what it is compared with."""

    name: str
    value: str
    note: str


def write_page(runs: Sequence[RunData], path: Path, *, reload_seconds: int | None = None) -> None:
    """Write the report of `runs` to `path`, whole or not at all. `reload_seconds`: the page reads itself anew."""
    with whole_file(path) as draft:
        draft.write_text(render(runs, reload_seconds=reload_seconds), encoding="utf-8")


def render(runs: Sequence[RunData], *, reload_seconds: int | None = None) -> str:
    """The report as HTML."""
    environment = Environment(
        loader=PackageLoader("reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}  # in the record's order, and short
    environment.filters |= {"chart": line_chart, "stack": stack_chart, "timeline": timeline, "visible": visible}
    environment.filters |= {"guard_chart": guard_chart}
    environment.filters |= {"one_line": one_line, "exact": _exact, "value": tick_label}
    style, script = (_source(environment, name) for name in ("style.css", "script.js"))
    return environment.get_template("report.html").render(
        **_context(runs),
        style=Markup(style),
        script=Markup(script),
        policy=_policy(style, script),
        reload_seconds=reload_seconds,
    )


def _context(runs: Sequence[RunData]) -> dict[str, Any]:
    recipes = [run.recipe for run in runs]
    stacks: list[tuple[Stack | None, Stack | None]] = [
        (phase_stack(run, number), verdict_stack(run, number)) for number, run in enumerate(runs)
    ]
    sections: Mapping[str, list[Chart]] = make_charts(runs)
    return {
        "runs": runs,
        "made": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "tiles": [_tiles(run) for run in runs],
        "findings": [findings(run.series) for run in runs],
        "changed": changed_settings(recipes),
        "differing": {setting.key for setting in differing_settings(recipes)} if len(runs) > 1 else set(),
        "sections": {title: charts for title, charts in sections.items() if charts},
        "guards": [panel for run in runs if (panel := guard_panel(run))],
        "phases": [phases for phases, _ in stacks if phases],
        "verdicts": [verdicts for _, verdicts in stacks if verdicts and verdicts.layers],
        "reasons": [failure_reasons(run) for run in runs],
        "left_out": [left_out(run) for run in runs],
        "traces": [step_trace(run.folder / "timeline.json") for run in runs],
        "samples": [samples for run in runs if (samples := run_samples(run))],
        "metrics": _metric_rows(runs),
        "data": _data(runs),
    }


def _tiles(run: RunData) -> list[Tile]:
    tiles = [Tile(name="steps", value=f"{run.last_step}", note=f"of {run.recipe.get('num_steps', '?')}")]
    named = {"reward/mean": "reward", "eval/accuracy": "held-out accuracy", "supervised/loss": "loss"}
    named |= {"eval/loss": "held-out loss", "eval/preference_accuracy": "pairs rated right"}
    for metric, name in named.items():
        if (series := run.series.get(metric)) and series.finite:
            tiles.append(_moving_tile(run, series, name))
    times = sorted(run.times.values())
    if len(times) > 1:
        tiles.append(Tile(name="time", value=_duration(times[-1] - times[0]), note="first to last logged step"))
    for metric, name, form in (
        ("throughput/tokens_per_second", "tokens/s", "{:,.0f}"),
        ("throughput/mfu", "MFU", "{:.1%}"),
    ):
        values = [value for _, value in run.series[metric].finite] if metric in run.series else []
        if values:
            tiles.append(Tile(name=name, value=form.format(sum(values) / len(values)), note="mean over steps"))
    return tiles


def _moving_tile(run: RunData, series: Series, name: str) -> Tile:
    """The last value, with its interval where one is logged, and where it came from."""
    form = "{:.1%}" if row_of(series.name).unit == "share" else "{:.4g}"
    (first, begin), (last, end) = series.finite[0], series.finite[-1]
    ends = [
        run.series[f"{series.name}_{side}"].at(last)
        for side in ("low", "high")
        if f"{series.name}_{side}" in run.series
    ]
    interval = " (" + " to ".join(form.format(end) for end in ends if end is not None) + ")" if ends else ""
    return Tile(
        name=name, value=form.format(end), note=f"at step {last}{interval}; {form.format(begin)} at step {first}"
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _metric_rows(runs: Sequence[RunData]) -> list[dict[str, Any]]:
    """Every metric of any run: its unit and meaning, and each run's first, last, lowest and highest value."""
    rows = []
    for name in sorted({name for run in runs for name in run.series}):
        row = row_of(name)
        rows.append(
            {
                "name": name,
                "unit": row.unit,
                "meaning": row.meaning,
                "numbers": [_summary(run.series[name]) if name in run.series else None for run in runs],
            }
        )
    return rows


def _summary(series: Series) -> dict[str, float | None]:
    values = [value for _, value in series.finite]
    return {
        "first": series.values[0],
        "last": series.values[-1],
        "lowest": min(values, default=None),
        "highest": max(values, default=None),
    }


def _data(runs: Sequence[RunData]) -> list[dict[str, Any]]:
    """The numbers of metrics.jsonl, for reading beside the pointer: steps once where metrics share them."""
    found = []
    for run in runs:
        grids: list[tuple[int, ...]] = []
        metrics = {}
        for name, series in run.series.items():
            points = thinned(list(zip(series.steps, series.values, strict=True)), MAX_STEPS)
            steps = tuple(step for step, _ in points)
            if steps not in grids:
                grids.append(steps)
            metrics[name] = {"steps": grids.index(steps), "values": [value for _, value in points]}
        found.append({"label": run.label, "steps": grids, "metrics": metrics})
    return found


def _exact(value: float | None) -> str:
    """All digits of a number, as metrics.jsonl has them."""
    return "null" if value is None else json.dumps(value)


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _policy(style: str, script: str) -> str:
    """What the page may load: nothing but its own style and script, known by their digests."""
    kinds = {"style-src": style, "script-src": script}
    allowed = [f"{kind} 'sha256-{_digest(text)}'" for kind, text in kinds.items()]
    return "; ".join(["default-src 'none'", *allowed, "img-src data:", "base-uri 'none'", "form-action 'none'"])


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
