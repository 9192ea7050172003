"""`wutong submit`: a run as a job of a Ray cluster."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cli.going_on import Allow, Exact, Resume, check_going_on
from cli.sizes import parse_bytes
from cli.steer import Address
from cli.trust import InsecureCluster, TrustCheckpoint

if TYPE_CHECKING:  # importing Ray takes seconds
    from cluster.jobs import DriverRoom
    from cluster.parcel import Parcel
    from configs.schema import Run

errors = Console(stderr=True)


def submit(
    recipe: Annotated[Path, typer.Argument(help="a YAML file; configs/ has examples")],
    overrides: Annotated[list[str] | None, typer.Argument(help="settings to change, as dotted.key=value")] = None,
    address: Address = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list what would be sent, and send nothing")] = False,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="show the log until the run ends")] = True,
    include: Annotated[list[Path] | None, typer.Option(help="one more file or folder to send along")] = None,
    resume: Resume = False,
    exact: Exact = False,
    allow: Allow = None,
    trust_checkpoint: TrustCheckpoint = False,
    insecure_cluster: InsecureCluster = False,
    driver_cpus: Annotated[
        float, typer.Option(min=0, help="CPUs for the driver and its rewards, on any node; 0: on the head")
    ] = 0,
    driver_memory: Annotated[str, typer.Option(help="memory for the driver, such as 8GiB, on any node")] = "",
    driver_resource: Annotated[
        list[str] | None, typer.Option(help="a resource that the driver's node must have, as NAME=AMOUNT")
    ] = None,
) -> None:
    """Send a run to a cluster: our code, the recipe, and the reward and data files that it names by relative paths.

    Relative paths start at the current folder. The job begins in a copy of what was sent.
    """
    from cluster.jobs import DriverRoom, command
    from cluster.parcel import pack
    from configs.load import load_run

    check_going_on(resume=resume, exact=exact, allow=allow, trust_checkpoint=trust_checkpoint)
    changes = overrides or []
    there = ["cluster.address=auto", *(["cluster.insecure=true"] if insecure_cluster else ())]
    run = load_run(recipe, [*changes, *there])
    parcel = pack(run, recipe, changes, include or ())
    room = DriverRoom(
        cpus=driver_cpus,
        memory_bytes=parse_bytes(driver_memory, "--driver-memory") if driver_memory else 0,
        resources=dict(_parsed_resource(text) for text in driver_resource or ()),
    )
    flags = {
        "--resume": resume,
        "--exact": exact,
        "--trust-checkpoint": trust_checkpoint,
        "--insecure-cluster": insecure_cluster,
    }
    options = [flag for flag, is_given in flags.items() if is_given]
    entry = command(parcel.recipe, changes, [*options, *(f"--allow={key}" for key in allow or ())])
    if dry_run:
        _list(parcel, entry)
    elif address is None:
        raise ValueError("--address: name the cluster's dashboard, such as --address http://HEAD:8265")
    else:
        _send(address, run, parcel, entry, room, follow=follow)


def _send(address: str, run: "Run", parcel: "Parcel", entry: str, room: "DriverRoom", *, follow: bool) -> None:
    from cluster import jobs
    from cluster.exit_codes import STOPPED_RESUMABLE
    from cluster.job_server import JobServer
    from cluster.parcel import sized

    server = JobServer(address)
    job_id = jobs.submit(server, run, parcel, entry, room)
    print(f"{run.name}: {job_id}, {sized(parcel.num_bytes)} sent")
    hint = f"wutong logs {run.name} --follow --address {address}"
    if not follow:
        print(hint)
        return
    try:
        job = asyncio.run(jobs.follow(server, job_id, lambda text: print(text, end="", flush=True)))
    except KeyboardInterrupt:
        errors.print(f"the run goes on; {hint}", markup=False, soft_wrap=True)
        return
    print(f"{run.name}: {job.state}")
    if job.state != "finished":
        raise typer.Exit(STOPPED_RESUMABLE if job.state == "stopped" else job.exit_code or 1)


def _list(parcel: "Parcel", entry: str) -> None:
    from cluster.parcel import sized

    for item in parcel.items:
        print(f"{item.num_bytes:>12,}  {item.target}")
    for file, reason in parcel.left_out:
        print(f"    left out  {file}: {reason}")
    print(f"{len(parcel.items)} files, {sized(parcel.num_bytes)}; nothing was sent")
    print(f"command: {entry}")


def _parsed_resource(text: str) -> tuple[str, float]:
    name, _, amount = text.partition("=")
    try:
        return name, float(amount)
    except ValueError:
        raise ValueError(f"--driver-resource {text}: want NAME=AMOUNT, such as disk=1") from None
