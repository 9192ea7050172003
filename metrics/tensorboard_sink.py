"""Metrics as TensorBoard event files."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.event_file_writer import EventFileWriter

# These modules make their names when they are imported, which type checkers can't see.
Event: Any = vars(event_pb2)["Event"]
SessionLog: Any = vars(event_pb2)["SessionLog"]
Summary: Any = vars(summary_pb2)["Summary"]


class TensorBoardSink:
    """Writes scalars with TensorBoard's own writer, which needs neither torch nor TensorFlow."""

    def __init__(self, folder: Path, *, first_step: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventFileWriter(str(folder))
        if first_step > 0:
            # A restart mark: TensorBoard then hides what an earlier run wrote from this step on.
            restart = SessionLog(status=SessionLog.START)
            self._writer.add_event(Event(step=first_step, wall_time=time.time(), session_log=restart))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write one step and flush it."""
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._writer.add_event(Event(step=step, wall_time=time.time(), summary=Summary(value=scalars)))
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()
