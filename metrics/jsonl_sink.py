"""Metrics as JSON lines: the record of a run."""

import json
import logging
import math
import shutil
import time
from collections.abc import Mapping
from itertools import count
from pathlib import Path

from metrics.whole_file import whole_file

logger = logging.getLogger(__name__)


class JsonlSink:
    """Appends `{"step": 3, "time": ..., "reward/mean": ...}`, one line a step, flushed at once.

    NaN and infinity, for which JSON has no word, become null. `time` is in seconds since 1970.
    """

    def __init__(self, path: Path, *, first_step: int = 0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            _drop_from(path, first_step)
        self._file = path.open("a", encoding="utf-8")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append one line."""
        numbers = {name: value if math.isfinite(value) else None for name, value in values.items()}
        line = json.dumps({"step": step, "time": round(time.time(), 3), **numbers})
        self._file.write(line + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _drop_from(path: Path, first_step: int) -> None:
    """Take out the lines that a resumed run will write again, and a last line that was cut.

    The file as it was stays beside it as `metrics.jsonl.1`, `.2` ...; the new one replaces it whole,
    so a kill at any moment leaves one of the two.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    kept = [line for line in lines if (step := _step_of(line)) is not None and step < first_step]
    if len(kept) == len(lines):
        return
    candidates = (path.with_name(f"{path.name}.{number}") for number in count(1))
    backup = next(candidate for candidate in candidates if not candidate.exists())
    with whole_file(path) as draft:
        draft.write_text("".join(kept), encoding="utf-8")
        shutil.copyfile(path, backup)
    logger.info(
        "%s: took out %d lines from step %d on; the old file is %s",
        path,
        len(lines) - len(kept),
        first_step,
        backup.name,
    )


def _step_of(line: str) -> int | None:
    """The step of a whole line; None for a broken one."""
    if not line.endswith("\n"):
        return None
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return None
