"""What became of each stage, in `stages.json` of the folder of them all."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cluster.control import write_json
from cluster.stage_prints import Print
from configs.staged import StageSpec

FILE = "stages.json"
OUTCOME = "outcome.json"  # in a stage's own folder, written by its process when it is done
_STATUS = "status.json"  # of a run, written about once a second
State = Literal["running", "stopped", "failed", "finished"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One stage. `begins`: how often it was begun anew; `seconds`: of all its processes since then."""

    state: State
    made_of: Print
    begins: int
    seconds: float = 0.0
    number: str = ""

    @property
    def id(self) -> str:
        """Which doing of the stage this is: another one after each new beginning."""
        return f"{self.made_of.digest}-{self.begins}"


class Records:
    """All stages' records; each change is on disk, whole, before `put` returns."""

    def __init__(self, folder: Path) -> None:
        """ValueError when the file is there and can't be read."""
        self._path = folder / FILE
        self._records = dict(_read(self._path))
        self._written = self._path.stat().st_mtime if self._records else 0.0  # by the driver before this one

    def __getitem__(self, name: str) -> Record | None:
        return self._records.get(name)

    def put(self, name: str, record: Record) -> None:
        """Set the record of a stage."""
        self._records[name] = record
        write_json(self._path, {name: _as_json(record) for name, record in self._records.items()})

    def lost_seconds(self, spec: StageSpec) -> float:
        """About how long the process of a stage worked whose driver was killed, until its last sign of life."""
        with contextlib.suppress(OSError):
            return max(0.0, (spec.folder / _STATUS).stat().st_mtime - self._written)
        return 0.0


def outcome_of(folder: Path, id_: str) -> Mapping[str, Any] | None:
    """What the process of a stage left when it was done; None where this doing of it is not done."""
    try:
        content = json.loads((folder / OUTCOME).read_text(encoding="utf-8"))
    except OSError:
        return None
    return content if content["id"] == id_ else None


def finished(record: Record, outcome: Mapping[str, Any], seconds: float) -> Record:
    """The record with what came of the stage; `seconds`: of its last process."""
    return replace(record, state="finished", number=outcome["number"], seconds=record.seconds + seconds)


def _as_json(record: Record) -> dict[str, Any]:
    return {
        "state": record.state,
        "number": record.number,
        "seconds": round(record.seconds, 1),
        "begins": record.begins,
        "made_of": record.made_of.as_json(),
    }


def _read(path: Path) -> Iterator[tuple[str, Record]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    try:
        for name, content in json.loads(text).items():
            yield name, Record(**{**content, "made_of": Print.from_json(content["made_of"])})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path}: not what was written there ({type(error).__name__}); move it away, and all stages begin anew"
        ) from None
