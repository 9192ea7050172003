"""`wutong report`: runs as one HTML file."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

WATCH_SECONDS = 5
RELOAD_SECONDS = 10


def report(
    runs: Annotated[list[Path], typer.Argument(help="runs' folders; several are drawn into the same charts")],
    output: Annotated[
        Path | None, typer.Option(help="the file; by default RUN/report.html, of several runs ./report.html")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="write it again as the runs go on, until they end")] = False,
) -> None:
    """Show what runs did: curves, time, samples and what stands out, in one file that needs no network."""
    path = output or (runs[0] if len(runs) == 1 else Path()) / "report.html"
    if not path.resolve().parent.is_dir():
        raise ValueError(f"--output={path}: there is no folder {path.parent}")
    _watch(runs, path) if watch else _write(runs, path)
    print(path)


def _write(folders: Sequence[Path], path: Path) -> None:
    from reports.page import write_page
    from reports.run_data import read_runs

    runs = read_runs(folders)
    try:
        write_page(runs, path)
    except OSError as error:
        raise ValueError(f"--output={path}: can't be written ({error.strerror})") from None


def _watch(folders: Sequence[Path], path: Path) -> None:
    """Write the page whenever a run has logged; the last one does not read itself anew."""
    from reports.page import write_page
    from reports.run_data import read_runs

    num_logged = -1
    runs = read_runs(folders)
    try:
        while not all(run.is_over() for run in runs):
            if (now := sum(len(run.times) for run in runs)) != num_logged:
                write_page(runs, path, reload_seconds=RELOAD_SECONDS)
                num_logged = now
            time.sleep(WATCH_SECONDS)
            runs = read_runs(folders)
    except KeyboardInterrupt:
        pass
    _write(folders, path)
