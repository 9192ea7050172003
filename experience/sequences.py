"""Sequences to imitate, for pre-training and supervised fine-tuning, and the endless stream of them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from configs.schema.data import DataConfig
from experience import checks
from experience.conversations import ConversationEncoder, EncodedSequence
from experience.dataset import Dataset
from experience.encoding import Encoder
from experience.errors import DataError
from experience.order import EpochOrder
from experience.records import Ranking, TokenBlock

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedTokenizerBase

_ROWS_PER_BATCH = 4096


class Sequences(Protocol):
    """A finite set of sequences, any of which can be had as a block."""

    def __len__(self) -> int: ...

    def block(self, rows: NDArray[np.int64]) -> TokenBlock:
        """These sequences, in this order."""
        ...


class SequenceStream:
    """The endless stream of sequences: the block of step k depends on the seed and k alone."""

    def __init__(self, sequences: Sequences, *, seed: int, shuffle: bool = True) -> None:
        self._sequences = sequences
        self._order = EpochOrder(size=len(sequences), seed=seed, shuffle=shuffle)

    def block(self, step: int, count: int) -> TokenBlock:
        """The `count` sequences of step `step` (from 0), when every step takes `count`."""
        _, rows = self._order.rows(step * count, count)
        return self._sequences.block(rows)


def first_sequences(sequences: Sequences, count: int) -> TokenBlock:
    """The first `count` sequences (all, if there are fewer): a fixed held-out set."""
    return sequences.block(np.arange(min(count, len(sequences))))


class TextSequences:
    """Pre-training: all texts one after the other, an end token after each, cut to equal sequences.

    Every token counts but the first of a sequence, which nothing predicts. All tokens are held in
    memory, 4 bytes each.
    """

    def __init__(
        self, dataset: Dataset, tokenizer: "PreTrainedTokenizerBase", config: DataConfig, max_sequence_tokens: int
    ) -> None:
        checks.check_columns(dataset, {"data.text_column": config.text_column})
        texts = checks.text_column(dataset, config.text_column, "data.text_column")
        reasons = {"no text": checks.missing_rows(texts)}
        checks.refuse_missing(dataset, reasons, config.missing_values)
        encoder = Encoder(tokenizer)
        end = np.array([tokenizer.eos_token_id], dtype=np.int32)
        documents: list[NDArray[np.int32]] = []
        for rows in rows_in_batches(checks.keep(dataset, reasons)):
            values = texts.take(pa.array(rows)).to_pylist()
            for tokens in checks.encode_rows(dataset, rows, values, encoder.encode_plain):
                documents += (tokens, end)
        self._size = max_sequence_tokens
        self._tokens = np.concatenate(documents)

    def __len__(self) -> int:
        whole, rest = divmod(len(self._tokens), self._size)
        return whole + (rest > 1)  # a single token would count nothing

    def block(self, rows: NDArray[np.int64]) -> TokenBlock:
        """These sequences, in this order."""
        parts = [self._tokens[row * self._size : (row + 1) * self._size] for row in rows.tolist()]
        return sequence_block([EncodedSequence(tokens=part, loss_mask=np.arange(len(part)) > 0) for part in parts])


class ConversationSequences:
    """SFT: prompt and response, or whole conversations; the assistant's turns count, their end included.

    Without a response column the prompt column holds messages that end with the assistant's. All rows
    are checked at once, and tokenised when drawn.
    """

    def __init__(
        self, dataset: Dataset, tokenizer: "PreTrainedTokenizerBase", config: DataConfig, max_sequence_tokens: int
    ) -> None:
        checks.check_columns(dataset, {"data.prompt_column": config.prompt_column})
        checks.check_ids(dataset)
        self._dataset = dataset
        self._encoder = ConversationEncoder(Encoder(tokenizer, config.system_prompt))
        self._prompts = checks.prompt_column(dataset, config.prompt_column)
        self._responses = self._response_column(config)
        reasons = {"no prompt": checks.missing_rows(self._prompts)}
        if self._responses is not None:
            reasons["no response"] = checks.missing_rows(self._responses)
        checks.refuse_missing(dataset, reasons, config.missing_values)
        self._rows = checks.keep(dataset, reasons)
        self._refuse_long(max_sequence_tokens)

    def __len__(self) -> int:
        return len(self._rows)

    def block(self, rows: NDArray[np.int64]) -> TokenBlock:
        """These sequences, in this order."""
        return sequence_block(self._encode(self._rows[rows]))

    def _response_column(self, config: DataConfig) -> pa.ChunkedArray | None:
        absent = config.response_column not in self._dataset.table.column_names
        if absent and not checks.is_text(self._prompts.type):
            return None
        checks.check_columns(self._dataset, {"data.response_column": config.response_column})
        return checks.text_column(self._dataset, config.response_column, "data.response_column")

    def _encode(self, rows: NDArray[np.int64]) -> list[EncodedSequence]:
        prompts = self._prompts.take(pa.array(rows)).to_pylist()
        responses = [None] * len(rows) if self._responses is None else self._responses.take(pa.array(rows)).to_pylist()
        values = list(zip(prompts, responses, strict=True))
        return checks.encode_rows(self._dataset, rows, values, self._encoder.encode)

    def _refuse_long(self, limit: int) -> None:
        """DataError if a sequence is longer; also encodes once every row that could be refused for itself."""
        frame = len(self._encode(self._rows[:1])[0].tokens)
        columns = [self._prompts] if self._responses is None else [self._prompts, self._responses]
        unsure = self._rows[~checks.surely_short(columns, self._rows, limit - frame)]
        lengths = np.array(
            [len(one.tokens) for rows in rows_in_batches(unsure) for one in self._encode(rows)], dtype=np.int64
        )
        if len(long := unsure[lengths > limit]):
            raise DataError(
                f"{len(long)} of {len(self)} conversations have more than max_sequence_tokens={limit} tokens "
                f"(the longest {lengths.max()}): {self._dataset.where_all(long)}; raise it, or leave them out"
            )


def rows_in_batches(rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """`rows` in parts of which the Python objects fit in memory."""
    return [rows[start : start + _ROWS_PER_BATCH] for start in range(0, len(rows), _ROWS_PER_BATCH)]


def sequence_block(sequences: Sequence[EncodedSequence], ranking: Ranking | None = None) -> TokenBlock:
    """Sequences as a trainer reads them; nobody sampled them, so log-probs are 0 and versions -1."""
    offsets = np.concatenate([[0], np.cumsum([len(one.tokens) for one in sequences])]).astype(np.int64)
    return TokenBlock(
        offsets=offsets,
        tokens=np.concatenate([one.tokens for one in sequences]),
        response_mask=np.concatenate([one.loss_mask for one in sequences]),
        rollout_logprobs=np.zeros(offsets[-1], dtype=np.float32),
        versions=np.full(offsets[-1], -1, dtype=np.int32),
        ranking=ranking,
    )
