"""JSONL files as Arrow tables, strictly: every bad line is named with its file, line and column."""

import codecs
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa

from experience.errors import DataError

logger = logging.getLogger(__name__)

# A longer line is a file that is not JSONL; reading it whole could take the machine's memory.
MAX_LINE_BYTES = 64 * 2**20
# Lines turned into one Arrow chunk: Python objects of at most so many rows are alive at a time.
_LINES_PER_CHUNK = 65_536


def read_jsonl(path: Path) -> pa.Table:
    """One row a line, one column a key; row i is line i + 1. DataError for everything that is not that.

    A key that a line lacks is null there; a column of texts and numbers becomes a column of texts.
    """
    chunks: list[pa.Table] = []
    rows: list[dict[str, Any]] = []
    first = 1
    for number, row in enumerate(_rows(path), start=1):
        rows.append(row)
        if len(rows) == _LINES_PER_CHUNK:
            chunks.append(_table(rows, path, first))
            rows, first = [], number + 1
    if rows:
        chunks.append(_table(rows, path, first))
    if not chunks:
        raise DataError(f"{path}: holds no row")
    try:
        return pa.concat_tables(chunks, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(f"{path}: a column changes its type along the file: {error}") from error


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    decoder = json.JSONDecoder(parse_constant=_refuse_constant)
    empty_line = 0
    for number, offset, line in _lines(path):
        if not line.strip():
            empty_line = empty_line or number
            continue
        if empty_line:  # empty lines are fine only at the end
            raise DataError(f"{path}:{empty_line}: empty line between rows; remove it")
        text = _decode(line, path, offset)
        try:
            row = decoder.decode(text)
        except json.JSONDecodeError as error:
            cut = "" if line.endswith(b"\n") else " (the last line has no end: was the file cut?)"
            raise DataError(f"{path}:{number}:{error.colno}: bad JSON: {error.msg}{cut}") from error
        except _Constant as error:
            column = text.find(str(error)) + 1
            raise DataError(f"{path}:{number}:{column}: {error} is not JSON; use null or a number") from error
        except RecursionError as error:
            raise DataError(f"{path}:{number}: nested too deeply") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: holds a {type(row).__name__}; every line must be an object {{...}}")
        yield row


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Line number from 1, byte offset and bytes of each line, the byte-order mark removed."""
    with path.open("rb") as file:
        offset = 0
        for number in range(1, 2**62):
            line = file.readline(MAX_LINE_BYTES + 1)
            if not line:
                return
            if len(line) > MAX_LINE_BYTES:
                raise DataError(f"{path}:{number}: longer than {MAX_LINE_BYTES >> 20} MiB; is this a JSONL file?")
            if number == 1 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise DataError(f"{path}: is UTF-16; convert it to UTF-8")
            mark = len(codecs.BOM_UTF8) if number == 1 and line.startswith(codecs.BOM_UTF8) else 0
            if mark:
                logger.warning("%s: ignoring its byte-order mark", path)
            yield number, offset + mark, line[mark:]
            offset += len(line)


def _decode(line: bytes, path: Path, offset: int) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        place = offset + error.start
        raise DataError(f"{path}: not UTF-8 at byte {place} (0x{line[error.start]:02x}); convert the file") from error


class _Constant(Exception):
    """A literal such as NaN, which Python's parser would let through."""


def _refuse_constant(name: str) -> NoReturn:
    raise _Constant(name)


def _table(rows: list[dict[str, Any]], path: Path, first_line: int) -> pa.Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: _column([row.get(name) for row in rows], name, path, first_line) for name in names}
    return pa.table(columns)


def _column(values: list[Any], name: str, path: Path, first_line: int) -> pa.Array:
    kinds = {type(value) for value in values} - {type(None)}
    if kinds == {int, float}:
        kinds = {float}
    elif str in kinds and kinds <= {str, int, float}:
        # Golds such as 72 beside "1/2": the number's own digits are the text that was meant.
        values = [None if value is None else str(value) for value in values]
        kinds = {str}
    try:
        if len(kinds) > 1:
            raise pa.ArrowTypeError("several types")
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        line, found, usual = _odd_one_out(values, first_line)
        raise DataError(f"{path}:{line}: column {name!r} is {found} here and {usual} before") from error


def _odd_one_out(values: list[Any], first_line: int) -> tuple[int, str, str]:
    """Line and type of the first value that does not fit those before it, and their type."""
    usual = next(type(value).__name__ for value in values if value is not None)
    for number, value in enumerate(values):
        if value is not None and type(value).__name__ != usual:
            return first_line + number, type(value).__name__, usual
    for number in range(1, len(values) + 1):
        try:
            pa.array(values[:number])
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            return first_line + number - 1, "another kind of value (nested, or a number beyond 64 bits)", usual
    raise AssertionError("called for values that fit together")
