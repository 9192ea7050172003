"""`wutong diff`: two runs beside each other."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from reports.comparison import Comparison, Reading

_PIPE_WIDTH = 160  # of the tables where there is no terminal to measure


def diff(
    left: Annotated[Path, typer.Argument(help="a run's folder")],
    right: Annotated[Path, typer.Argument(help="another one")],
) -> None:
    """Show two runs beside each other: settings that differ, metrics, and the step at which they part.

    Metrics stand at the last step that both logged and at the end, with their 95 % interval where one is known.
    """
    from reports.comparison import compare
    from reports.run_data import read_runs

    comparison = compare(read_runs([left, right]))
    console = Console()
    if not console.is_terminal:
        console = Console(width=_PIPE_WIDTH)
    console.print(_settings(comparison))
    console.print(_metrics(comparison))
    console.print(_parting(comparison), markup=False, highlight=False)


def _settings(comparison: "Comparison") -> Table:
    table = Table("key", *map(escape, comparison.labels), "default", title="settings that differ", title_justify="left")
    for setting in comparison.settings:
        values = ["–" if value is None else escape(value) for value in (*setting.values, setting.default)]
        table.add_row(escape(setting.key), *values)
    if not comparison.settings:
        table.add_row("none")
    return table


def _metrics(comparison: "Comparison") -> Table:
    labels = [escape(label) for label in comparison.labels]
    columns = [f"{when}: {label}" for when in ("last common step", "end") for label in labels]
    table = Table("metric", *columns, title="metrics", title_justify="left")
    for pair in comparison.metrics:
        common = pair.common or (None, None)
        table.add_row(escape(pair.name), *map(_shown, (*common, *pair.last)))
    return table


def _shown(reading: "Reading | None") -> str:
    if reading is None:
        return ""
    value = "not finite" if reading.value is None else f"{reading.value:.6g}"
    interval = "" if reading.interval is None else " ({:.4g} to {:.4g})".format(*reading.interval)
    return f"{value}{interval} @{reading.step}"


def _parting(comparison: "Comparison") -> str:
    if comparison.parting is None:
        return f"all numbers of their {comparison.num_common_steps} common steps agree, but for time and memory"
    names = comparison.parting.names
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"they part at step {comparison.parting.step}: {', '.join(names[:8])}{more}"
