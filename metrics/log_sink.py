"""Metrics as lines of the run's log: what the console shows of a step, with its time."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from metrics.console_sink import summary_line


class LogSink:
    """Appends `2026-11-26 12:00:00 INFO step 3/10  reward 0.500 ...`, flushed at once."""

    def __init__(self, path: Path, *, num_steps: int) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._num_steps = num_steps

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append one line."""
        now = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
        self._file.write(f"{now} INFO step {step}/{self._num_steps}  {summary_line(values)}\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
