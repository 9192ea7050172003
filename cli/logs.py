"""`wutong logs`: what a run has said, and goes on to say."""

import time
from pathlib import Path
from typing import Annotated

import typer

from cli.steer import Address, RunArgument

_SECONDS_BETWEEN_LOOKS = 0.3


def logs(
    run: RunArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on until the run ends")] = False,
    tail: Annotated[int, typer.Option("--tail", "-n", min=0, help="only the last lines; 0: all of them")] = 0,
    address: Address = None,
) -> None:
    """Print the log of a run: its starts, steps, warnings and ends."""
    if address is not None:
        _logs_afar(run, address, tail, follow=follow)
        return
    from cluster.run_log import last_lines

    path = Path(run) / "run.log"
    text = last_lines(path, tail)
    size = path.stat().st_size
    _show(text)
    if follow:
        _follow(path, size)


def _follow(path: Path, size: int) -> None:
    from cluster.folder import has_owner

    with path.open(encoding="utf-8", errors="replace") as file:
        file.seek(size)
        while True:
            is_over = not has_owner(path.parent)  # before the last look, so that nothing is missed
            if text := file.read():
                _show(text)
            elif is_over:
                return
            time.sleep(_SECONDS_BETWEEN_LOOKS)


def _logs_afar(name: str, address: str, tail: int, *, follow: bool) -> None:
    import asyncio

    from cluster import jobs
    from cluster.job_server import JobServer

    server = JobServer(address)
    job = server.find(name)
    text = server.log(job.id)
    _show("".join(text.splitlines(keepends=True)[-tail:] if tail else text))
    if follow:
        asyncio.run(jobs.follow(server, job.id, _show, num_shown=len(text)))


def _show(text: str) -> None:
    print(text, end="", flush=True)
