"""Sequences to imitate, for pre-training and supervised fine-tuning, and the endless stream of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
from experience.records import TokenBlock

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedTokenizerBase

_ROWS_PER_BATCH = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class SequencePool:
    """All sequences of a data set. `loss_mask` is True on the tokens that the loss counts.

    `offsets`: [N + 1]; sequence i holds tokens offsets[i]:offsets[i + 1].
    """

    offsets: NDArray[np.int64]
    tokens: NDArray[np.int32]
    loss_mask: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def block(self, rows: NDArray[np.int64]) -> TokenBlock:
        """These sequences as a trainer reads them; nobody sampled them, so log-probs are 0 and versions -1."""
        lengths = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        # Token j of the result stands at its sequence's start in the pool, plus its place in the sequence.
        places = np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], lengths)
        return TokenBlock(
            offsets=offsets,
            tokens=self.tokens[places],
            response_mask=self.loss_mask[places],
            rollout_logprobs=np.zeros(len(places), dtype=np.float32),
            versions=np.full(len(places), -1, dtype=np.int32),
        )

    def first(self, count: int) -> TokenBlock:
        """The first `count` sequences (all, if there are fewer): a fixed held-out set."""
        return self.block(np.arange(min(count, len(self))))


class SequenceStream:
    """The endless stream of a pool's sequences: the block of step k depends on the seed and k alone."""

    def __init__(self, pool: SequencePool, *, seed: int, shuffle: bool = True) -> None:
        self._pool = pool
        self._order = EpochOrder(size=len(pool), seed=seed, shuffle=shuffle)

    def block(self, step: int, count: int) -> TokenBlock:
        """The `count` sequences of step `step` (from 0), when every step takes `count`."""
        _, rows = self._order.rows(step * count, count)
        return self._pool.block(rows)


def text_sequences(
    dataset: Dataset, tokenizer: "PreTrainedTokenizerBase", config: DataConfig, max_sequence_tokens: int
) -> SequencePool:
    """Pre-training: all texts one after the other, an end token after each, cut to equal sequences.

    Every token counts but the first of a sequence, which nothing predicts.
    """
    checks.check_columns(dataset, {"data.text_column": config.text_column})
    texts = checks.text_column(dataset, config.text_column, "data.text_column")
    reasons = {"no text": checks.missing_rows(texts)}
    checks.refuse_missing(dataset, reasons, config.missing_values)
    encoder = Encoder(tokenizer)
    end = np.array(tokenizer.convert_tokens_to_ids([str(tokenizer.eos_token)]), dtype=np.int32)
    documents: list[NDArray[np.int32]] = []
    for rows in _batches(checks.keep(dataset, reasons)):
        values = texts.take(pa.array(rows)).to_pylist()
        for tokens in checks.encode_rows(dataset, rows, values, encoder.encode_plain):
            documents += (tokens, end)
    return _cut(np.concatenate(documents), max_sequence_tokens)


def conversation_sequences(
    dataset: Dataset, tokenizer: "PreTrainedTokenizerBase", config: DataConfig, max_sequence_tokens: int
) -> SequencePool:
    """SFT: prompt and response, or whole conversations; the assistant's turns count, their end included.

    Without a response column the prompt column holds messages that end with the assistant's.
    """
    pairs = _pairs(dataset, config)
    encoder = ConversationEncoder(Encoder(tokenizer, config.system_prompt))
    sequences: list[EncodedSequence] = []
    for rows in _batches(pairs.rows):
        places = pa.array(rows)
        prompts = pairs.prompts.take(places).to_pylist()
        responses = pairs.responses.take(places).to_pylist() if pairs.responses is not None else [None] * len(rows)
        values = list(zip(prompts, responses, strict=True))
        sequences += checks.encode_rows(dataset, rows, values, encoder.encode)
    lengths = np.array([len(sequence.tokens) for sequence in sequences])
    if len(long := pairs.rows[lengths > max_sequence_tokens]):
        raise DataError(
            f"{len(long)} of {len(lengths)} conversations have more than max_sequence_tokens={max_sequence_tokens} "
            f"tokens (the longest {lengths.max()}): {dataset.where_all(long)}; raise it, or leave them out"
        )
    return SequencePool(
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        tokens=np.concatenate([sequence.tokens for sequence in sequences]),
        loss_mask=np.concatenate([sequence.loss_mask for sequence in sequences]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pairs:
    rows: NDArray[np.int64]
    prompts: pa.ChunkedArray
    responses: pa.ChunkedArray | None


def _pairs(dataset: Dataset, config: DataConfig) -> _Pairs:
    """The usable rows, and their columns."""
    checks.check_columns(dataset, {"data.prompt_column": config.prompt_column})
    checks.check_ids(dataset)
    prompts = checks.prompt_column(dataset, config.prompt_column)
    reasons = {"no prompt": checks.missing_rows(prompts)}
    responses = None
    if checks.is_text(prompts.type) or config.response_column in dataset.table.column_names:
        checks.check_columns(dataset, {"data.response_column": config.response_column})
        responses = checks.text_column(dataset, config.response_column, "data.response_column")
        reasons["no response"] = checks.missing_rows(responses)
    checks.refuse_missing(dataset, reasons, config.missing_values)
    return _Pairs(rows=checks.keep(dataset, reasons), prompts=prompts, responses=responses)


def _batches(rows: NDArray[np.int64]) -> Sequence[NDArray[np.int64]]:
    return [rows[start : start + _ROWS_PER_BATCH] for start in range(0, len(rows), _ROWS_PER_BATCH)]


def _cut(tokens: NDArray[np.int32], size: int) -> SequencePool:
    """Sequences of `size` tokens; a last one of a single token, which would count nothing, is left out."""
    starts = np.arange(0, len(tokens), size)
    usable = len(tokens) - 1 if len(tokens) - starts[-1] == 1 and len(starts) > 1 else len(tokens)
    starts = starts[starts < usable]
    loss_mask = np.ones(usable, dtype=bool)
    loss_mask[starts] = False
    return SequencePool(offsets=np.append(starts, usable).astype(np.int64), tokens=tokens[:usable], loss_mask=loss_mask)
