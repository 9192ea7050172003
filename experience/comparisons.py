"""Comparisons of responses to one prompt: pairs of a chosen and a rejected one, or several with ratings."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from configs.schema.data import DataConfig
from experience import checks
from experience.conversations import EncodedSequence, PairEncoder
from experience.dataset import Dataset
from experience.encoding import Conversation
from experience.errors import DataError
from experience.records import Ranking, TokenBlock
from experience.sequences import rows_in_batches, sequence_block

Row: TypeAlias = Mapping[str, Any]
_LACKS = ("no prompt", "no response", "one response with two ratings", "no two different ratings")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The responses to one prompt, two at least, and how good each is; higher is better."""

    prompt: str | Conversation
    responses: tuple[str, ...]
    ratings: tuple[float, ...]

    def lacks(self) -> str | None:
        """Why nothing can be learned from it, in one of the words of _LACKS."""
        if not self.prompt or (isinstance(self.prompt, str) and not self.prompt.strip()):
            return "no prompt"
        if len(self.responses) < 2 or not all(response.strip() for response in self.responses):
            return "no response"
        if len(set(zip(self.responses, self.ratings, strict=True))) > len(set(self.responses)):
            return "one response with two ratings"
        return None if len(set(self.ratings)) > 1 else "no two different ratings"


class ComparisonSet:
    """A finite set of comparisons, any of which can be had as a block whose ranking says what is compared.

    Every row is read and encoded once at the start, to find what is wrong with it, and again when drawn.
    """

    def __init__(self, dataset: Dataset, encoder: PairEncoder, config: DataConfig, max_sequence_tokens: int) -> None:
        checks.check_ids(dataset)
        columns, self._read = _reader(dataset, config)
        self._dataset = Dataset(source=dataset.source, table=dataset.table.select(columns), shards=dataset.shards)
        self._encoder = encoder
        reasons = self._lacking()
        checks.refuse_missing(dataset, reasons, config.missing_values)
        self._rows = checks.keep(dataset, reasons)
        self.longest_tokens = self._refuse_long(max_sequence_tokens)

    def __len__(self) -> int:
        return len(self._rows)

    def block(self, rows: NDArray[np.int64]) -> TokenBlock:
        """The sequences of these comparisons, in this order."""
        chosen = self._rows[rows]
        comparisons = self._comparisons(chosen)
        encoded = self._encode(chosen, comparisons)
        ranking = Ranking(
            edges=np.cumsum([0, *map(len, encoded)], dtype=np.int64),
            ratings=np.array([rating for one in comparisons for rating in one.ratings], dtype=np.float32),
        )
        return sequence_block([sequence for one in encoded for sequence in one], ranking)

    def _comparisons(self, rows: NDArray[np.int64]) -> list[Comparison]:
        values = self._dataset.table.take(pa.array(rows)).to_pylist()
        return checks.encode_rows(self._dataset, rows, values, lambda given: [self._read(row) for row in given])

    def _encode(self, rows: NDArray[np.int64], comparisons: Sequence[Comparison]) -> list[list[EncodedSequence]]:
        """The sequences of each comparison."""

        def encode(given: Sequence[Comparison]) -> list[list[EncodedSequence]]:
            encoded = iter(
                self._encoder.encode([(one.prompt, response) for one in given for response in one.responses])
            )
            return [list(islice(encoded, len(one.responses))) for one in given]

        return checks.encode_rows(self._dataset, rows, comparisons, encode)

    def _lacking(self) -> dict[str, NDArray[np.bool_]]:
        """For each of _LACKS, True at the rows that lack it: [rows]."""
        batches = rows_in_batches(np.arange(len(self._dataset)))
        lacks = np.array([one.lacks() for rows in batches for one in self._comparisons(rows)], dtype=object)
        return {lack: lacks == lack for lack in _LACKS}

    def _refuse_long(self, limit: int) -> int:
        """DataError if a sequence is longer; returns the tokens of the comparison that has most."""
        lengths = [
            [len(one.tokens) for one in sequences]
            for rows in rows_in_batches(self._rows)
            for sequences in self._encode(rows, self._comparisons(rows))
        ]
        longest = np.array([max(comparison) for comparison in lengths])
        if len(long := self._rows[longest > limit]):
            raise DataError(
                f"{len(long)} of {len(self)} comparisons have a response that makes more than max_sequence_tokens="
                f"{limit} tokens with its prompt (the longest {longest.max()}): {self._dataset.where_all(long)}; "
                "raise it, or leave them out"
            )
        return max(map(sum, lengths))


def _reader(dataset: Dataset, config: DataConfig) -> tuple[list[str], Callable[[Row], Comparison]]:
    """The columns that are used, and what makes a comparison of a row; it raises ValueError."""
    have = dataset.table.column_names
    prompt = [config.prompt_column] if config.prompt_column in have else []
    if {config.chosen_column, config.rejected_column} <= set(have):
        if not prompt and checks.is_text(dataset.table[config.chosen_column].type):
            checks.check_columns(dataset, {"data.prompt_column": config.prompt_column})
        margin = [config.margin_column] if config.margin_column in have else []
        columns = [*prompt, config.chosen_column, config.rejected_column, *margin]
        return columns, lambda row: _read_pair(row, config)
    if config.responses_column not in have:
        raise DataError(
            f"{dataset.source} has neither columns {config.chosen_column!r} and {config.rejected_column!r} nor "
            f"{config.responses_column!r}; it has {', '.join(have)}: set data.chosen_column and data.rejected_column, "
            "or data.responses_column"
        )
    if config.ratings_column in have:
        return [*prompt, config.responses_column, config.ratings_column], lambda row: _read_rated(row, config)
    checks.check_columns(dataset, {"data.ratings_column or data.ranks_column": config.ranks_column})
    return [*prompt, config.responses_column, config.ranks_column], lambda row: _read_ranked(row, config)


def _read_pair(row: Row, config: DataConfig) -> Comparison:
    """Without a margin, the ratings of the chosen and the rejected response differ by 1."""
    given = [row[config.chosen_column], row[config.rejected_column]]
    margin = row.get(config.margin_column, 1.0)
    if not _is_number(margin) or margin <= 0:
        raise ValueError(f"{config.margin_column} is {margin!r}; want a number above 0: the chosen response is better")
    return _comparison(row.get(config.prompt_column), given, (float(margin), 0.0))


def _read_rated(row: Row, config: DataConfig) -> Comparison:
    return _comparison(row.get(config.prompt_column), row[config.responses_column], row[config.ratings_column])


def _read_ranked(row: Row, config: DataConfig) -> Comparison:
    """Rank 1 is the best."""
    ranks = row[config.ranks_column] or ()
    ratings = [-rank if _is_number(rank) else rank for rank in ranks]
    return _comparison(row.get(config.prompt_column), row[config.responses_column], ratings)


def _comparison(prompt: Any, responses: Sequence[Any] | None, ratings: Sequence[Any] | None) -> Comparison:
    responses, ratings = responses or (), ratings or ()
    if len(responses) != len(ratings):
        raise ValueError(f"{len(responses)} responses with {len(ratings)} ratings; want one each")
    if strange := [rating for rating in ratings if not _is_number(rating)]:
        raise ValueError(f"a response is rated {strange[0]!r}; want a number")
    split = [_split(prompt, response) for response in responses]
    prompts = [own for own, _ in split]
    if any(own != prompts[0] for own in prompts):
        raise ValueError("the responses that are compared answer different prompts")
    return Comparison(
        prompt=(prompts[0] if prompts else prompt) or "",
        responses=tuple(text for _, text in split),
        ratings=tuple(map(float, ratings)),
    )


def _split(prompt: Any, response: Any) -> tuple[Any, str]:
    """The prompt and the response's text. A response may be messages, with the prompt's before the answer."""
    if response is None or isinstance(response, str):
        return _bare(prompt), response or ""
    messages = _bare(response)
    if not isinstance(messages, list) or not messages:
        return _bare(prompt), ""
    *before, answer = messages
    if answer["role"] != "assistant":
        raise ValueError(f"a response ends with a message of role {answer['role']!r}; want an assistant message")
    if before and prompt and not _is_same(before, _bare(prompt)):
        raise ValueError("a response repeats another prompt than the one of its row")
    return before or _bare(prompt), answer["content"] or ""


def _is_same(messages: list[dict[str, Any]], prompt: Any) -> bool:
    return messages == prompt or messages[-1]["content"] == prompt


def _bare(value: Any) -> Any:
    """Messages without any key but role and content; everything else as it is."""
    if not isinstance(value, list) or not all(isinstance(message, Mapping) for message in value):
        return value
    return [{"role": message.get("role"), "content": message.get("content")} for message in value]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
