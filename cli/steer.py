"""`wutong status`, `wutong scale` and `wutong stop`: look at a run that goes on, and steer it, from near or afar."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

Address = Annotated[
    str | None, typer.Option("--address", help="of the cluster's dashboard, such as http://HEAD:8265; RUN is a name")
]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="a run's folder; with --address its name")]


def status(
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="a run's folder, or one of runs; with --address a name")
    ] = None,
    address: Address = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Print how a run stands, or all runs of a folder or a cluster: step, rollout workers, what they are doing."""
    if address is not None and run is None:
        _jobs(address, as_json=as_json)
        return
    found = [_status_afar(run, address)] if run and address else _statuses(Path(run or "runs"))
    is_single = address is not None or (Path(run or "runs") / "status.json").exists()
    if as_json:
        print(json.dumps(found[0] if is_single else found, indent=1))
        return
    console = Console()
    console.print(_runs(found))
    if is_single and found[0].get("workers"):
        console.print(_workers(found[0]["workers"]))


def scale(
    run: RunArgument,
    rollout: Annotated[int, typer.Option("--rollout", min=1, help="rollout workers from now on")],
    address: Address = None,
) -> None:
    """Change the number of rollout workers of a run that goes on.

    New workers get the current weights before they serve; those that leave finish what they have first.
    """
    if address is None:
        from cluster import errand

        print(errand.scale(Path(run), rollout))
        return
    from cluster import jobs
    from cluster.job_server import JobServer

    server = JobServer(address)
    print(jobs.scale(server, server.find(run), rollout))


def stop(
    run: RunArgument,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="until the run has ended")] = True,
    address: Address = None,
) -> None:
    """End a run after the step under way, with a checkpoint: `--resume` goes on from there."""
    if address is not None:
        _stop_afar(run, address, wait=wait)
        return
    from cluster import errand

    print(errand.stop(Path(run)))
    if wait:
        found = errand.ended(Path(run))
        print(f"{found['state']} after step {found.get('step', 0)}")


def _stop_afar(name: str, address: str, *, wait: bool) -> None:
    from cluster import jobs
    from cluster.job_server import JobServer

    server = JobServer(address)
    job = server.find(name)
    print(jobs.stop(server, job))
    if wait:
        job = jobs.ended(server, job)
        found = jobs.status_or_less(server, job)
        print(f"{job.state} after step {found.get('step', 0)}")


def _status_afar(name: str, address: str) -> dict[str, Any]:
    from cluster import jobs
    from cluster.job_server import JobServer

    server = JobServer(address)
    return jobs.status_or_less(server, server.find(name))


def _statuses(folder: Path) -> list[dict[str, Any]]:
    from cluster.status import read_status

    single = folder / "status.json"
    files = [single] if single.exists() else sorted(folder.glob("*/status.json"))
    if not files:
        raise ValueError(f"{folder}: no run is here; give a run's folder, or the folder that holds them (output_dir)")
    return [read_status(path) for path in files]


def _jobs(address: str, *, as_json: bool) -> None:
    from cluster.job_server import JobServer

    found = JobServer(address).jobs()
    rows = [
        {
            "run": job.run,
            "state": job.state,
            "began": job.began.isoformat(timespec="seconds"),
            "stage": job.stage,
            "model": job.model,
            "job": job.id,
            "folder": job.folder,
        }
        for job in found
    ]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    if not rows:
        print(f"{address}: no run was submitted there")
        return
    table = Table("run", "state", "began", "stage", "model", "job")
    for row in rows:
        table.add_row(*(row[str(column.header)] for column in table.columns))
    Console().print(table)


def _runs(found: list[dict[str, Any]]) -> Table:
    table = Table("run", "state", "step", "in flight", "waiting", "restarts", "host", "pid")
    for run in found:
        step = f"{run.get('step', 0)}/{run['num_steps']}" if "num_steps" in run else ""
        numbers = [str(run.get(name, "")) for name in ("in_flight", "waiting", "restarts")]
        table.add_row(run["run"], run["state"], step, *numbers, run.get("host", ""), str(run.get("pid", "")))
    return table


def _workers(found: list[dict[str, Any]]) -> Table:
    table = Table("worker", "node", "state", "weights", "groups", "tokens", "slowness")
    for worker in found:
        names = ("name", "node", "state", "version", "groups", "tokens", "slowness")
        table.add_row(*(str(worker.get(name, "")) for name in names))
    return table
