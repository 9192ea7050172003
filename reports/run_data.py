"""A run's folder as data, also while the run is writing to it."""

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from configs.yaml_source import read_recipe
from metrics.names import Metric, Reduction, metric

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One metric over the steps at which it was logged. A value is None where it was not finite."""

    name: str
    steps: tuple[int, ...]
    values: tuple[float | None, ...]

    @property
    def finite(self) -> tuple[tuple[int, float], ...]:
        """(step, value) of the values that are numbers."""
        return tuple((step, value) for step, value in zip(self.steps, self.values, strict=True) if value is not None)

    @property
    def by_step(self) -> dict[int, float | None]:
        """Step -> value."""
        return dict(zip(self.steps, self.values, strict=True))

    def at(self, step: int) -> float | None:
        """The value at `step`; None where there is none."""
        return self.by_step.get(step)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunData:
    """What a run has left so far. `times`: when each step was logged, in seconds since 1970."""

    label: str
    folder: Path
    recipe: Mapping[str, Any]
    series: Mapping[str, Series]
    times: Mapping[int, float]

    @property
    def last_step(self) -> int:
        """The newest step that was logged; 0 before the first."""
        return max(self.times, default=0)

    @property
    def stage(self) -> str:
        """Which kind of training."""
        return str(self.recipe.get("stage", ""))

    def stored_steps(self) -> dict[int, Path]:
        """The steps whose samples are on disk, in order."""
        found = {_step_of(path): path for path in (self.folder / "trajectories").glob("step_*.parquet")}
        return dict(sorted((step, path) for step, path in found.items() if step is not None))

    def is_over(self) -> bool:
        """Whether the run, or its last part, has ended by itself: the timeline is written after the last metrics."""
        timeline, metrics = self.folder / "timeline.json", self.folder / "metrics.jsonl"
        if not timeline.is_file() or not metrics.is_file() or timeline.stat().st_mtime < metrics.stat().st_mtime:
            return False
        with timeline.open("rb") as file:  # it may still be half there
            file.seek(-min(2, timeline.stat().st_size), os.SEEK_END)
            return file.read() == b"]}"


def read_run(folder: Path) -> RunData:
    """The run in `folder`. ValueError when there is none, or when its recipe can't be read."""
    config = folder / "config.yaml"
    if not config.is_file():
        raise ValueError(f"{folder}: holds no config.yaml; RUN is a run's folder, such as runs/arithmetic-grpo")
    rows = _rows(folder / "metrics.jsonl")
    return RunData(
        label=folder.resolve().name,
        folder=folder,
        recipe=read_recipe(config).data,
        series=_series(rows),
        times={step: float(row["time"]) for step, row in rows.items() if isinstance(row.get("time"), (int, float))},
    )


def read_runs(folders: Sequence[Path]) -> list[RunData]:
    """Several runs, with labels that tell them apart."""
    runs = [read_run(folder) for folder in folders]
    labels = [run.label for run in runs]
    if len(set(labels)) == len(labels):
        return runs
    paths = [run.folder.resolve() for run in runs]
    return [replace(run, label=f"{path.parent.name}/{path.name}") for path, run in zip(paths, runs, strict=True)]


def row_of(name: str) -> Metric:
    """The metric's row in the table; one without a meaning for a name that another version wrote."""
    try:
        return metric(name)
    except ValueError:
        return Metric(name=name, unit="", meaning="not in this version's table of metrics", reduction=Reduction.LAST)


def _rows(path: Path) -> dict[int, dict[str, Any]]:
    """Step -> its line. The last line of a step counts, where a resumed run went over it again."""
    if not path.is_file():
        return {}
    rows: dict[int, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        row = _row(line)
        if row is not None:
            rows[row["step"]] = row
        elif line.endswith("\n"):  # a last line without an end is being written
            logger.warning("%s: left out a broken line: %.80r", path, line)
    return dict(sorted(rows.items()))


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    is_row = line.endswith("\n") and isinstance(row, dict) and isinstance(row.get("step"), int)
    return row if is_row else None


def _series(rows: Mapping[int, Mapping[str, Any]]) -> dict[str, Series]:
    names = dict.fromkeys(name for row in rows.values() for name in row if name not in ("step", "time"))
    return {name: Series(name=name, **_column(rows, name)) for name in names}


def _column(rows: Mapping[int, Mapping[str, Any]], name: str) -> dict[str, Any]:
    points = list(_points(rows, name))
    return {"steps": tuple(step for step, _ in points), "values": tuple(value for _, value in points)}


def _points(rows: Mapping[int, Mapping[str, Any]], name: str) -> Iterator[tuple[int, float | None]]:
    for step, row in rows.items():
        if name in row:
            value = row[name]
            yield step, float(value) if isinstance(value, (int, float)) else None


def _step_of(path: Path) -> int | None:
    number = path.stem.partition("_")[2]
    return int(number) if number.isdecimal() else None
