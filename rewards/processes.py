"""The pool's end of its processes: start the keeper, ask it for workers, talk to one under a deadline."""

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rewards import wire
from rewards.contract import RewardError
from rewards.keeper import END, SPAWN
from rewards.worker import send_frame

_ROOT = Path(__file__).resolve().parents[1]
_PID = struct.Struct("!i")
_KEEPER_SECONDS = 60.0  # importing sympy on a busy machine
_LOADING_SECONDS = 120.0  # a user's file may import much

# -P and -c keep the current folder and the script's folder off sys.path: a user's rewards.py cannot shadow ours.
_BOOT = """
import sys
sys.path.insert(0, sys.argv[1])
from rewards.keeper import main
main(int(sys.argv[2]), sys.argv[3:])
"""


class KeeperLost(Exception):
    """The process that forks workers died."""


class WorkerLost(Exception):
    """The worker died; the message says how."""


class Keeper:
    """The process that forks workers. Any thread may call it."""

    def __init__(self, modules: Sequence[str]) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-P", "-c", _BOOT, str(_ROOT), str(theirs.fileno()), *modules]
        null = subprocess.DEVNULL
        self._process = subprocess.Popen(
            command, stdin=null, stdout=null, stderr=subprocess.PIPE, pass_fds=[theirs.fileno()],
            start_new_session=True, env={"OMP_NUM_THREADS": "1", **os.environ},
        )  # fmt: skip
        theirs.close()
        self._control = ours
        self._lock = threading.Lock()
        ours.settimeout(_KEEPER_SECONDS)
        if self._receive(1) != b"R":
            raise RewardError(f"the process that runs rewards did not start: {self._last_words()}")

    def spawn(self, setup: dict[str, Any]) -> "Worker":
        """A new worker with its rewards loaded; RewardError when one cannot be, KeeperLost when this one died."""
        ours, theirs = socket.socketpair()
        try:
            with self._lock, theirs:
                socket.send_fds(self._control, [SPAWN], [theirs.fileno()])
                (pid,) = _PID.unpack(self._receive(_PID.size))
        except (OSError, struct.error) as error:
            ours.close()
            raise KeeperLost(str(error)) from error
        worker = Worker(pid=pid, connection=ours, keeper=self)
        try:
            worker.send(setup, _LOADING_SECONDS)
            hello = worker.receive(_LOADING_SECONDS)
        except (WorkerLost, TimeoutError) as error:
            raise RewardError(f"loading the rewards did not end well: {worker.end() or error}") from error
        if "error" in hello:
            worker.end()
            raise RewardError(hello["error"])
        worker.is_batch = hello["batch"]
        return worker

    def end(self, pid: int) -> int:
        """Kill a worker and all that it started; its wait status."""
        with self._lock:
            try:
                self._control.sendall(END + _PID.pack(pid))
                return _PID.unpack(self._receive(_PID.size))[0]
            except (OSError, struct.error):  # the keeper is gone, and its workers with it
                return 0

    def close(self) -> None:
        """End the keeper and every worker; returns when they are gone."""
        self._control.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stderr:
            self._process.stderr.close()

    @property
    def is_alive(self) -> bool:
        """Whether the keeper still runs."""
        return self._process.poll() is None

    def _receive(self, size: int) -> bytes:
        try:
            return self._control.recv(size, socket.MSG_WAITALL)
        except TimeoutError:
            self._process.kill()
            return b""

    def _last_words(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        text = self._process.stderr.read().decode(errors="replace") if self._process.stderr else ""
        return " ".join(text.split())[-500:] or f"exit status {self._process.poll()}"


@dataclass(slots=True, kw_only=True)
class Worker:
    """One worker process and the socket to it. Owned by one thread."""

    pid: int
    connection: socket.socket
    keeper: Keeper
    is_batch: list[bool] = field(default_factory=list)  # a flag a reward
    _lines: list[bytes] = field(default_factory=list)
    _rest: bytes = b""

    def send(self, message: Any, timeout_seconds: float) -> None:
        """Write one frame; TimeoutError when the worker does not read it, WorkerLost when it is gone."""
        self.connection.settimeout(timeout_seconds)
        try:
            send_frame(self.connection, message)
        except TimeoutError:
            raise
        except OSError as error:
            raise WorkerLost(str(error)) from error

    def receive(self, timeout_seconds: float) -> Any:
        """The next reply. TimeoutError after `timeout_seconds` without one, WorkerLost when there will be none."""
        deadline = time.monotonic() + timeout_seconds
        while not self._lines:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError
            self.connection.settimeout(remaining)
            try:
                data = self.connection.recv(1 << 16)
            except TimeoutError:
                raise
            except OSError as error:
                raise WorkerLost(str(error)) from error
            if not data:
                raise WorkerLost("it hung up")
            *lines, self._rest = (self._rest + data).split(b"\n")
            self._lines = lines[::-1]
        try:
            return wire.decode(self._lines.pop())
        except ValueError as error:
            raise WorkerLost("it wrote what is no reply") from error

    def end(self) -> str:
        """Kill the process and all that it started; how it had ended, if it had."""
        self.connection.close()
        status = self.keeper.end(self.pid)
        if os.WIFSIGNALED(status):
            return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
        return f"exited with status {os.waitstatus_to_exitcode(status)}"
