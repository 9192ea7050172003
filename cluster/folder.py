"""A run's folder: where each thing stands, and who owns it."""

import contextlib
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from configs.dump import dump_run
from configs.schema import NamedStage, Run
from trainers.private_files import private_files

LOCK = "lock"


class RunFolder:
    """`output_dir/name/`, with absolute paths, since actors work in another folder."""

    def __init__(self, run: NamedStage) -> None:
        self.path = Path(run.output_dir).resolve() / run.name
        self.checkpoints = self.path / "checkpoints"
        self.trajectories = self.path / "trajectories"
        self.export = self.path / "export"
        self.data = self.path / "data"
        self.tokenizer = self.path / "tokenizer"
        self.metrics = self.path / "metrics.jsonl"
        self.config = self.path / "config.yaml"
        self.plan = self.path / "plan.txt"
        self.status = self.path / "status.json"
        self.log = self.path / "run.log"
        self.timeline = self.path / "timeline.json"  # opens in Perfetto

    def __str__(self) -> str:
        return str(self.path)

    @contextlib.contextmanager
    def opened(self, *, resume: bool) -> Iterator[None]:
        """The folder is made and locked inside.

        Raises ValueError when another run owns it, or when it holds an earlier run and `resume` is not set.
        """
        self._check_is_fresh(resume)
        self._check_no_link()
        self._make()
        with private_files(), locked(self.path / LOCK):
            yield

    def _check_is_fresh(self, resume: bool) -> None:
        if resume or not self.metrics.exists():
            return
        raise ValueError(
            f"{self.path} holds an earlier run; go on with it (--resume), choose another name (name=...), "
            f"or delete the folder"
        )

    def _check_no_link(self) -> None:
        """What stands in the folder is written to, replaced and removed: through a link, it would be somewhere else."""
        children = [place for place in vars(self).values() if place != self.path]
        for place in (self.path, *children, self.path / LOCK):
            if place.is_symlink():
                raise ValueError(
                    f"{place}: a symbolic link, through which a run would write elsewhere; remove it, and set "
                    "output_dir to where the run is to be"
                )

    def _make(self) -> None:
        try:
            for folder in (self.path, self.trajectories, self.checkpoints):
                folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        except OSError as error:
            raise ValueError(f"output_dir: can't make {self.path} ({error.strerror})") from None
        if not os.access(self.path, os.W_OK):
            raise ValueError(f"output_dir: {self.path} is not writable")

    def write_config(self, run: Run) -> None:
        """Note the resolved recipe."""
        self.config.write_text(dump_run(run))

    def check_space(self, needed_bytes: int) -> None:
        """Raises ValueError when the disk can't hold one more checkpoint of this size."""
        free = shutil.disk_usage(self.path).free
        if free < needed_bytes:
            raise ValueError(
                f"output_dir: {self.path} has {free / 2**30:.1f} GiB free; one checkpoint needs about "
                f"{needed_bytes / 2**30:.1f} GiB"
            )


def has_owner(folder: Path) -> bool:
    """Whether a run that goes on, on whatever machine, holds this run's folder."""
    try:
        with (folder / LOCK).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock file inside; the system lets go of it when the process ends, however it ends."""
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ValueError(f"{path.parent} belongs to a run that is going on: {file.read().strip()}") from None
        file.truncate(0)
        file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
        file.flush()
        yield
