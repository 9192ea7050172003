"""`wutong replay`: a stored step, learned from once more."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cli.trust import TrustCheckpoint

TOLERANCE = 1e-5  # relative; the same machine and recipe give the same digits on a CPU

console = Console()


def replay(
    run: Annotated[Path, typer.Argument(help="a run's folder")],
    step: Annotated[int, typer.Argument(help="which of its steps; the checkpoint before it must have been kept")],
    overrides: Annotated[list[str] | None, typer.Argument(help="settings to change, as dotted.key=value")] = None,
    trust_checkpoint: TrustCheckpoint = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False,
) -> None:
    """Recompute a step's advantages, loss and gradient norm, and compare them with what was logged.

    With settings changed, such as algorithm.name=rloo, it shows what another algorithm would have made of the
    same samples. Exit code 1: the same recipe gave other numbers.
    """
    from cluster.replay import replay as replay_step  # takes seconds

    result = replay_step(run, step, overrides or [], on_trust=trust_checkpoint)
    differences = result.differences(TOLERANCE)
    if as_json:
        console.print_json(json.dumps({"logged": dict(result.logged), "replayed": dict(result.replayed)}))
    else:
        table = Table("metric", "logged", "replayed", "", title=f"step {step} of {run}")
        for name in sorted(result.replayed):
            logged = f"{result.logged[name]:.6g}" if name in result.logged else ""
            table.add_row(name, logged, f"{result.replayed[name]:.6g}", "differs" if name in differences else "")
        console.print(table)
    if result.is_same_recipe and differences:
        raise typer.Exit(1)
