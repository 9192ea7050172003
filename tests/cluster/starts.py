"""Starts of `wutong train` in processes of their own, to be stopped, killed and resumed."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from trainers import checkpoint

ROOT = Path(__file__).parents[2]
WUTONG = (str(Path(sys.executable).with_name("wutong")),)
LIGHT_WUTONG = (sys.executable, "-m", "tests.cluster.light_wutong")  # its rollout workers sample without a model
MARK = "TEST_RUN_MARK"  # an environment variable that all processes of one start inherit


class Start:
    """One start of `wutong train` (or `command`) in a process of its own, until it ends.

    `brake`: the prompt from which on its scoring waits, from the start (tests/cluster/small_runs.py).
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        wutong: Sequence[str] = WUTONG,
        command: str = "train",
        brake: int | None = None,
    ) -> None:
        self.folder = folder
        self._mark = uuid.uuid4().hex
        self._stderr = folder / f"stderr_{self._mark}"
        for flag in ("brake", "braked"):
            (folder / flag).unlink(missing_ok=True)
        if brake is not None:
            (folder / "brake").write_text(str(brake))
        with self._stderr.open("w") as stderr:
            self.process = subprocess.Popen(
                [*wutong, command, "run.yaml", *arguments],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), MARK: self._mark},
                stderr=stderr,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C reaches a whole process group: here not ours
            )

    @property
    def stderr(self) -> str:
        """What the run said, but for the line of each step."""
        lines = self._stderr.read_text().splitlines(keepends=True)
        return "".join(line for line in lines if not line.startswith("step "))

    def processes(self) -> set[psutil.Process]:
        """The driver and all that come from it, also those that have become somebody else's children."""
        found = set()
        with suppress(psutil.NoSuchProcess):
            driver = psutil.Process(self.process.pid)
            found = {driver, *driver.children(recursive=True)}
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(MARK) == self._mark:
                    found.add(process)
        return {process for process in found if is_alive(process)}

    def brake_after(self, step: int) -> int:
        """Let the run do more than `step` steps and hold it in the scoring of another; the steps done by then.

        All of these are saved, where every step is.
        """
        self.wait_until(lambda: last_step(self.folder) > step, 120)
        (self.folder / "brake").touch()
        self.wait_until(lambda: (self.folder / "braked").exists(), 60)
        self.wait_until(lambda: saved_step(self.folder) == last_step(self.folder), 60)
        return last_step(self.folder)

    def wait_until(self, condition: Callable[[], object], seconds: float) -> None:
        """Fail, with what the run said, when it ends or the time is over before the condition holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.stderr}"
            assert time.monotonic() < deadline, f"nothing after {seconds} s: {self.stderr}"
            time.sleep(0.05)

    def interrupt(self) -> None:
        """Ctrl-C at a terminal."""
        os.killpg(self.process.pid, signal.SIGINT)


def is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def last_step(folder: Path) -> int:
    path = folder / "run" / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("\n")), default=0)


def saved_step(folder: Path) -> int:
    """Of the newest checkpoint; 0 where there is none."""
    newest = checkpoint.latest_valid(folder / "run" / "checkpoints")
    return 0 if newest is None else checkpoint.step_of(newest)


def described(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return str(process)
