"""The journal of judgements: one JSON line each, on the disk before anybody is told that it is kept.

Nothing is ever rewritten: taking a judgement back is a line of its own. A line that a killed process left unfinished
was told to nobody; it is passed over, and the next one starts afresh.
"""

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

logger = logging.getLogger(__name__)

Choice = Literal["left", "right", "tie", "both_bad"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What one labeller says of one pair.

    `id`: the page's own number, by which a judgement that is sent twice is known. `left`: which of the pair's responses
    (0 or 1) stood on the left. `seconds`: from seeing the pair to judging it.
    """

    id: str
    pair: str
    labeller: str
    choice: Choice
    left: int
    seconds: float

    @property
    def preferred(self) -> int | None:
        """Which of the pair's responses is better; None where neither is."""
        if self.choice not in ("left", "right"):
            return None
        return self.left if self.choice == "left" else 1 - self.left


class Journal:
    """A file of judgements, held by one process at a time."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+b")
        self._judgements = {judgement.id: judgement for judgement in read_judgements(path)}
        if path.stat().st_size and not path.read_bytes().endswith(b"\n"):
            self._append_bytes(b"\n")

    def __contains__(self, judgement_id: str) -> bool:
        return judgement_id in self._judgements

    @property
    def judgements(self) -> list[Judgement]:
        """Those that stand, in the order they were given."""
        return list(self._judgements.values())

    def add(self, judgement: Judgement) -> None:
        """Keep a judgement; on the disk when this returns. The same one again changes nothing."""
        if judgement.id not in self._judgements:
            self._append(asdict(judgement))

    def take_back(self, judgement_id: str) -> None:
        """Let a judgement no longer stand; its line stays."""
        self._append({"undo": judgement_id})

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _append(self, line: dict[str, Any]) -> None:
        stamped = {**line, "at": datetime.now(UTC).isoformat(timespec="seconds")}
        self._append_bytes(json.dumps(stamped).encode() + b"\n")
        _apply(stamped, self._judgements)

    def _append_bytes(self, data: bytes) -> None:
        self._file.write(data)
        self._file.flush()
        os.fsync(self._file.fileno())


def read_judgements(path: Path) -> list[Judgement]:
    """Those that stand in a journal, which another process may be writing."""
    judgements: dict[str, Judgement] = {}
    for line in _whole_lines(path):
        _apply(line, judgements)
    return list(judgements.values())


def _apply(line: dict[str, Any], judgements: dict[str, Judgement]) -> None:
    if "undo" in line:
        judgements.pop(line["undo"], None)
    else:
        judgements[line["id"]] = Judgement(**{key: value for key, value in line.items() if key != "at"})


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        try:
            if line:
                yield json.loads(line)
        except ValueError:
            logger.warning("%s:%d: an unfinished line, passed over", path, number)
