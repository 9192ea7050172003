"""A data set as one Arrow table that knows which file and row each of its rows came from."""

import bisect
import importlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from experience.errors import DataError
from experience.jsonl import read_jsonl
from experience.parquet import read_parquet

_READERS: dict[str, Callable[[Path], pa.Table]] = {
    ".parquet": read_parquet,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
}
_HUB = re.compile(r"hub:(?P<name>[^:]+)(?::(?P<split>.+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """All rows of a source. `shards`: each file's name, and the first row of the table that it holds."""

    source: str
    table: pa.Table
    shards: tuple[tuple[str, int], ...]

    def __len__(self) -> int:
        return self.table.num_rows

    def where(self, row: int) -> str:
        """Where a person finds a row: `file:line` of JSONL, else `file, row N` counted from 0."""
        shard = bisect.bisect_right([first for _, first in self.shards], row) - 1
        name, first = self.shards[shard]
        is_lines = Path(name).suffix in (".jsonl", ".ndjson")
        return f"{name}:{row - first + 1}" if is_lines else f"{name}, row {row - first}"

    def where_all(self, rows: Sequence[int] | NDArray[np.int64], *, at_most: int = 5) -> str:
        """The first few places, and how many more there are."""
        more = f" and {len(rows) - at_most} more" if len(rows) > at_most else ""
        return "; ".join(self.where(int(row)) for row in rows[:at_most]) + more


def load_dataset(source: str) -> Dataset:
    """Read a file, a glob, a folder or `hub:NAME[/CONFIG][:SPLIT]`; DataError when there is nothing to read."""
    if source.startswith("hub:"):
        return _load_hub(source)
    paths = find_files(source)
    tables = [_READERS[path.suffix](path) for path in paths]
    table = _join(tables, [str(path) for path in paths])
    if table.num_rows == 0:
        raise DataError(f"{source}: holds no row")
    firsts = [sum(len(table) for table in tables[:number]) for number in range(len(tables))]
    return Dataset(source=source, table=table, shards=tuple(zip(map(str, paths), firsts, strict=True)))


def find_files(source: str) -> list[Path]:
    """The files of a source that is no `hub:NAME`; DataError when there are none."""
    path = Path(source).expanduser()
    if path.is_dir():
        return _readable(sorted(path.iterdir()), f"{source} is a folder that")
    if any(character in source for character in "*?["):
        anchor = Path(path.anchor) if path.is_absolute() else Path()
        pattern = str(path.relative_to(path.anchor)) if path.is_absolute() else str(path)
        return _readable(sorted(anchor.glob(pattern)), f"{source} (looked in {Path.cwd()})")
    if not path.exists():
        raise DataError(f"{source}: no such file or folder (looked in {Path.cwd()})")
    if path.suffix not in _READERS:
        raise DataError(f"{source}: unknown file type; choose one of {', '.join(_READERS)}, or hub:NAME")
    return [path]


def _readable(paths: Iterable[Path], what: str) -> list[Path]:
    found = [path for path in paths if path.suffix in _READERS and path.is_file() and not path.name.startswith(".")]
    if not found:
        raise DataError(f"{what} holds no file ending in {', '.join(_READERS)}")
    return found


def _join(tables: Sequence[pa.Table], names: Sequence[str]) -> pa.Table:
    """One table of all shards; DataError names two shards and the column on which they disagree."""
    types: dict[str, tuple[pa.DataType, str]] = {}
    for table, name in zip(tables, names, strict=True):
        if missing := [column for column in types if column not in table.column_names]:
            raise DataError(f"{name} has no column {missing[0]!r}, which {types[missing[0]][1]} has")
        for column in table.schema:
            if column.name not in types and name != names[0]:
                raise DataError(f"{names[0]} has no column {column.name!r}, which {name} has")
            known, first = types.get(column.name, (column.type, name))
            if not _fits(known, column.type):
                raise DataError(f"column {column.name!r} is {known} in {first} and {column.type} in {name}")
            types[column.name] = (column.type, name) if pa.types.is_null(known) else (known, first)
    return pa.concat_tables(tables, promote_options="permissive")


def _fits(one: pa.DataType, other: pa.DataType) -> bool:
    texts = (pa.string(), pa.large_string())
    return one == other or pa.types.is_null(one) or pa.types.is_null(other) or (one in texts and other in texts)


def _load_hub(source: str) -> Dataset:
    match = _HUB.fullmatch(source)
    if match is None:
        raise DataError(f"{source}: want hub:NAME[/CONFIG][:SPLIT], such as hub:openai/gsm8k/main:train")
    parts = match["name"].split("/")
    name, config = "/".join(parts[:2]), "/".join(parts[2:]) or None
    split = match["split"] or "train"
    try:
        hub = importlib.import_module("datasets")
    except ImportError as error:
        raise DataError(f"{source}: needs the datasets library: pip install 'wutong[hub]'") from error
    try:
        loaded = hub.load_dataset(name, config, split=split)
    except Exception as error:  # it raises kinds of its own for network, names and scripts
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{source}: cannot be loaded from the hub (is there a network?): {reason}") from error
    if len(loaded) == 0:
        raise DataError(f"{source}: holds no row")
    return Dataset(source=source, table=loaded.with_format("arrow")[:], shards=((source, 0),))
