"""The checks that a data set must pass before anything is started: columns, types, missing values, golds."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from experience.dataset import Dataset
from experience.errors import DataError

logger = logging.getLogger(__name__)

pc: Any = pyarrow.compute  # its functions are made at import, where type checkers cannot see them

T = TypeVar("T")

# Says why a gold answer cannot be compared with; None where it can.
GoldCheck: TypeAlias = Callable[[str], str | None]

# A data set with more bad golds than this share is the wrong data set, not an unlucky one.
MAX_BAD_GOLDS = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldPolicy:
    """What golds must be like. `check` is the verifier's; bad golds are all listed in the JSONL file `report`."""

    required: bool = True
    check: GoldCheck | None = None
    report: Path | None = None


def check_columns(dataset: Dataset, wanted: Mapping[str, str]) -> None:
    """DataError unless every column is there. `wanted`: the config's key -> the column it names."""
    have = dataset.table.column_names
    for key, column in wanted.items():
        if column not in have:
            raise DataError(f"{dataset.source} has no column {column!r}; it has {', '.join(have)}: set {key}")


def check_ids(dataset: Dataset) -> None:
    """DataError when the data carry an `id` column in which a value stands twice."""
    if "id" not in dataset.table.column_names:
        return
    ids = dataset.table["id"].to_pylist()
    seen: set[object] = set()
    repeated = [row for row, value in enumerate(ids) if value in seen or seen.add(value)]
    if repeated:
        raise DataError(f"{len(repeated)} rows repeat an id: {dataset.where_all(repeated)}; ids must be unique")


def prompt_column(dataset: Dataset, column: str) -> pa.ChunkedArray:
    """The prompts: texts, or lists of {role, content} messages; DataError for every other type."""
    prompts = dataset.table[column]
    if not is_text(prompts.type) and not _is_messages(prompts.type):
        raise DataError(
            f"{dataset.where(0)}: column {column!r} is {prompts.type}; "
            "want texts or lists of {role, content} messages: set data.prompt_column"
        )
    return prompts


def text_column(dataset: Dataset, column: str, key: str) -> pa.ChunkedArray:
    """A column of texts; numbers are written out. DataError for other types; `key` is the config's."""
    values = dataset.table[column]
    if is_text(values.type):
        return values
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        return pc.cast(values, pa.string())
    if pa.types.is_null(values.type):
        return pc.cast(values, pa.string())
    raise DataError(f"{dataset.where(0)}: column {column!r} is {values.type}; want texts or numbers: set {key}")


def is_text(kind: pa.DataType) -> bool:
    """Either of Arrow's two text types."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def missing_rows(values: pa.ChunkedArray) -> NDArray[np.bool_]:
    """True where a text is null or blank, or a list of messages is null or empty: [rows]."""
    if is_text(values.type):
        empty = pc.equal(pc.utf8_trim_whitespace(values), "")
    else:
        empty = pc.equal(pc.list_value_length(values), 0)
    return np.asarray(pc.fill_null(empty, True))


def refuse_missing(dataset: Dataset, reasons: Mapping[str, NDArray[np.bool_]], policy: str) -> None:
    """DataError if a row has nothing where there must be something and `policy` is refuse.

    `reasons`: what is missing -> True at the rows that lack it.
    """
    for what, rows in reasons.items():
        if policy == "refuse" and rows.any():
            raise DataError(
                f"{rows.sum()} of {len(dataset)} rows have {what}: {dataset.where_all(np.flatnonzero(rows))}; "
                "mend them, or set data.missing_values=drop"
            )


def rows_with_bad_golds(dataset: Dataset, answers: pa.ChunkedArray, golds: GoldPolicy) -> NDArray[np.bool_]:
    """True where the gold cannot be compared with; DataError when there are more than MAX_BAD_GOLDS."""
    reasons = _bad_golds(answers, golds)
    bad = np.asarray(pc.is_in(answers, pa.array(list(reasons), type=answers.type)))
    rows = np.flatnonzero(bad)
    if not len(rows):
        return bad
    if golds.report is not None:
        listed = [(dataset.where(row), str(answers[row])) for row in rows.tolist()]
        lines = [json.dumps({"where": where, "gold": gold, "reason": reasons[gold]}) + "\n" for where, gold in listed]
        golds.report.write_text("".join(lines), encoding="utf-8")
    first = str(answers[int(rows[0])])
    what = (
        f"{len(rows)} of {len(dataset)} golds cannot be compared with: {dataset.where_all(rows)}; "
        f"the first is {first!r}: {reasons[first]}" + (f"; all in {golds.report}" if golds.report else "")
    )
    if len(rows) > MAX_BAD_GOLDS * len(dataset):
        raise DataError(f"{what}; at most {MAX_BAD_GOLDS:.1%} may be left out: mend them or set data.answer_column")
    logger.warning("%s; left out", what)
    return bad


def keep(dataset: Dataset, reasons: Mapping[str, NDArray[np.bool_]]) -> NDArray[np.int64]:
    """The rows that no reason leaves out; DataError with the counts when none is left."""
    left = np.flatnonzero(~np.logical_or.reduce(list(reasons.values())))
    counts = ", ".join(f"{rows.sum()} for {reason}" for reason, rows in reasons.items() if rows.any())
    if not len(left):
        raise DataError(f"{dataset.source}: no row is left of {len(dataset)}: left out {counts}")
    if counts:
        logger.warning("%s: %d of %d rows are used; left out %s", dataset.source, len(left), len(dataset), counts)
    return left


def surely_short(columns: Sequence[pa.ChunkedArray], rows: NDArray[np.int64], limit: int) -> NDArray[np.bool_]:
    """True where the texts of a row together cannot have more than `limit` tokens: [len(rows)].

    A token of ASCII text holds at least one character, so most rows need no tokenizer.
    """
    short = np.zeros(len(rows), dtype=np.int64)
    for column in columns:
        if not is_text(column.type):
            return np.zeros(len(rows), dtype=bool)
        texts = column.take(pa.array(rows))
        short += np.where(pc.string_is_ascii(texts), pc.binary_length(texts), limit + 1)
    return short <= limit


def encode_rows(
    dataset: Dataset, rows: NDArray[np.int64], values: Sequence[Any], encode: Callable[[Sequence[Any]], list[T]]
) -> list[T]:
    """`encode` of the values; its ValueError as a DataError that names the first row it complains of."""
    try:
        return encode(values)
    except ValueError:
        for row, value in zip(rows, values, strict=True):
            try:
                encode([value])
            except ValueError as error:
                raise DataError(f"{dataset.where(int(row))}: {error}") from error
        raise


def warn_of_contradictions(dataset: Dataset, keys: list[str], answers: pa.ChunkedArray) -> int:
    """Warn of prompts that stand twice with different golds. Returns how many rows contradict an earlier one.

    `keys`: [rows], equal for equal prompts.
    """
    first: dict[str, str | None] = {}
    rows = [
        row
        for row, (key, answer) in enumerate(zip(keys, answers.to_pylist(), strict=True))
        if first.setdefault(key, answer) != answer
    ]
    if rows:
        logger.warning("%d rows repeat a prompt with another gold: %s", len(rows), dataset.where_all(rows))
    return len(rows)


def prompt_keys(prompts: pa.ChunkedArray) -> list[str]:
    """Equal for equal prompts: the text, or the messages as JSON."""
    values = prompts.to_pylist()
    return values if is_text(prompts.type) else [json.dumps(value, sort_keys=True) for value in values]


def _is_messages(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return is_list and pa.types.is_struct(kind.value_type) and {"role", "content"} <= set(kind.value_type.names)


def _bad_golds(answers: pa.ChunkedArray, golds: GoldPolicy) -> dict[str, str]:
    """Answer -> what is wrong with it. Equal answers are checked once."""
    if golds.check is None:
        return {}
    verdicts = {answer: golds.check(answer) for answer in pc.unique(answers).to_pylist() if answer is not None}
    return {answer: reason for answer, reason in verdicts.items() if reason is not None}
