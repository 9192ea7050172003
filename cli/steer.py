"""`wutong status`, `wutong scale` and `wutong stop`: look at a run that goes on, and steer it."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

SECONDS_TO_SCALE = 900.0  # an engine may take minutes to start
SECONDS_TO_ANSWER = 30.0

RunFolderArgument = Annotated[Path, typer.Argument(metavar="RUN", help="a run's folder, such as runs/my-run")]


def status(
    run: Annotated[Path, typer.Argument(metavar="[RUN]", help="a run's folder, or a folder of runs")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Print how a run stands, or all runs of a folder: step, rollout workers, what they are doing."""
    import json

    from cluster.status import read_status

    single = run / "status.json"
    files = [single] if single.exists() else sorted(run.glob("*/status.json"))
    if not files:
        raise ValueError(f"{run}: no run is here; give a run's folder, or the folder that holds them (output_dir)")
    found = [read_status(path) for path in files]
    if as_json:
        print(json.dumps(found[0] if single.exists() else found, indent=1))
        return
    console = Console()
    console.print(_runs(found))
    if single.exists() and found[0].get("workers"):
        console.print(_workers(found[0]["workers"]))


def scale(
    run: RunFolderArgument,
    rollout: Annotated[int, typer.Option("--rollout", min=1, help="rollout workers from now on")],
) -> None:
    """Change the number of rollout workers of a run that goes on.

    New workers get the current weights before they serve; those that leave finish what they have first.
    """
    from cluster.control import ScaleRequest

    print(_asked(run, ScaleRequest(rollout=rollout), SECONDS_TO_SCALE))


def stop(
    run: RunFolderArgument,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="until the run has ended")] = True,
) -> None:
    """End a run after the step under way, with a checkpoint: `wutong train ... --resume` goes on from there."""
    from cluster.control import StopRequest
    from cluster.status import GOING_ON, read_status

    print(_asked(run, StopRequest(), SECONDS_TO_ANSWER))
    if not wait:
        return
    while (found := read_status(run / "status.json"))["state"] in GOING_ON:
        time.sleep(0.5)
    print(f"{found['state']} after step {found.get('step', 0)}")


def _asked(run: Path, request: Any, seconds: float) -> str:
    """What came of it. ValueError when nobody is there to ask, or the request is refused."""
    from cluster.control import ask
    from cluster.status import GOING_ON, read_status

    found = read_status(run / "status.json")
    if found["state"] not in GOING_ON:
        raise ValueError(f"{run}: nothing to {request.kind}: the run is {found['state']}")
    answer = ask(run, request, seconds)
    if not answer.is_done:
        raise ValueError(f"{run}: refused: {answer.text}")
    return answer.text


def _runs(found: list[dict[str, Any]]) -> Table:
    table = Table("run", "state", "step", "in flight", "waiting", "restarts", "host", "pid")
    for run in found:
        step = f"{run.get('step', 0)}/{run['num_steps']}"
        numbers = [str(run.get(name, "")) for name in ("in_flight", "waiting", "restarts")]
        table.add_row(run["run"], run["state"], step, *numbers, run["host"], str(run["pid"]))
    return table


def _workers(found: list[dict[str, Any]]) -> Table:
    table = Table("worker", "node", "state", "weights", "groups", "tokens", "slowness")
    for worker in found:
        names = ("name", "node", "state", "version", "groups", "tokens", "slowness")
        table.add_row(*(str(worker.get(name, "")) for name in names))
    return table
