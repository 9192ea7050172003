"""A stage in a process of its own, which ends in order when the one that started it is gone.

The request comes on standard input, and the end of that means that whoever sent it has died.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from pydantic import TypeAdapter

from cluster.signals import SIGNALS
from configs.schema import Stage

ROOT = Path(__file__).resolve().parent.parent
_STAGE: TypeAdapter[Stage] = TypeAdapter(Stage)


class StageProcess:
    """Starts one stage after the other; signals go on to the one that runs."""

    def __init__(self, command: Sequence[str]) -> None:
        """`command`: what reads a request from its standard input."""
        self._command = list(command)
        self._process: subprocess.Popen[str] | None = None
        self._is_waiting = False  # a signal, for a process that is not there yet
        self.stopped_by: str | None = None

    def run(self, stage: Stage, *, id_: str, resume: bool) -> int:
        """The exit code of the stage's process; negative: the signal that killed it."""
        request = {"stage": stage.model_dump(mode="json", exclude_unset=True), "id": id_, "resume": resume}
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            text=True,
            start_new_session=True,  # Ctrl-C comes from here, as often as it was pressed
        )
        assert self._process.stdin is not None
        if self._is_waiting:
            self._process.terminate()
        try:
            with contextlib.suppress(BrokenPipeError):  # it died; its exit code says how
                self._process.stdin.write(json.dumps(request) + "\n")
                self._process.stdin.flush()
            return self._process.wait()
        finally:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
            self._process = None

    @contextlib.contextmanager
    def forwarding(self) -> Iterator[None]:
        """Inside, SIGINT and SIGTERM are the stage's: this process waits for what it makes of them."""
        earlier = {number: signal.signal(number, self._receive) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)

    def _receive(self, number: int, _: FrameType | None) -> None:
        self.stopped_by = self.stopped_by or signal.Signals(number).name
        if self._process is None:
            self._is_waiting = True
        else:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)


def read_request() -> tuple[Stage, str, bool]:
    """The stage, the id of this doing of it, and whether it is resumed; then the sender's death is a SIGTERM."""
    request: dict[str, Any] = json.loads(sys.stdin.readline() or "null") or sys.exit(1)
    threading.Thread(target=_outlive_nobody, daemon=True, name="sender").start()
    return _STAGE.validate_python(request["stage"]), request["id"], request["resume"]


def _outlive_nobody() -> None:
    while os.read(0, 4096):  # not through sys.stdin, whose lock this thread would hold when the process ends
        pass
    os.kill(os.getpid(), signal.SIGTERM)
