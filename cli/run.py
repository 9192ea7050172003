"""`wutong run`: a recipe of stages, from pre-training to the model that is handed over."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cluster.exit_codes import STOPPED_RESUMABLE

if TYPE_CHECKING:  # importing the cluster takes a second
    from cluster.stages import Row

STAGE_PROCESS: Sequence[str] = (sys.executable, "-P", "-m", "cli", "stage-process")

console = Console()
errors = Console(stderr=True)


def run(
    recipe: Annotated[Path, typer.Argument(help="a YAML file of stages; configs/recipes/ has examples")],
    overrides: Annotated[list[str] | None, typer.Argument(help="settings to change, as STAGE.key=value")] = None,
    only: Annotated[str | None, typer.Option(help="this stage alone; what it reads must be finished")] = None,
    from_: Annotated[str | None, typer.Option("--from", help="this stage and those after it")] = None,
) -> None:
    """Run all stages of a recipe that are not finished, each in a process of its own; again to go on."""
    from configs.staged import load_staged

    staged = load_staged(recipe, overrides or ())
    chosen = _chosen([spec.name for spec in staged.stages], only=only, from_=from_)
    from cluster.stage_process import StageProcess
    from cluster.stages import Stages

    code, rows = Stages(staged, StageProcess(STAGE_PROCESS), _say).run(chosen)
    console.print(_table(staged.folder, rows))
    if code == STOPPED_RESUMABLE:
        options = [*(["--only", only] if only else ()), *(["--from", from_] if from_ else ())]
        again = shlex.join(["wutong", "run", str(recipe), *(overrides or ()), *options])
        errors.print(f"stopped; go on with: {again}", markup=False, soft_wrap=True)
    raise typer.Exit(code)


def stage_process() -> None:
    """Do the one stage that is asked for on standard input."""
    from cluster.stage_process import read_request

    stage, id_, resume = read_request()
    from cluster.stage_work import work

    if not work(stage, id_=id_, resume=resume):
        raise typer.Exit(STOPPED_RESUMABLE)


def _chosen(names: Sequence[str], *, only: str | None, from_: str | None) -> Sequence[str]:
    if only is not None and from_ is not None:
        raise ValueError("--only and --from: both say where to begin; leave one out")
    for option, name in (("--only", only), ("--from", from_)):
        if name is not None and name not in names:
            raise ValueError(f"{option} {name}: no such stage; choose one of {', '.join(names)}")
    if only is not None:
        return [only]
    return names if from_ is None else names[names.index(from_) :]


def _say(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _table(folder: Path, rows: Sequence["Row"]) -> Table:
    table = Table("stage", "state", "time", title=escape(str(folder)))
    for column in ("result", "output"):
        table.add_column(column, overflow="fold")
    for row in rows:
        seconds = round(row.seconds)
        time = f"{seconds // 60}:{seconds % 60:02d}" if seconds else ""
        output = row.output.removeprefix(f"{folder}/")
        table.add_row(row.stage, row.state, time, escape(row.number), escape(output))
    return table
