"""The sequences of a micro-batch, end to end in flat tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experience.records import Item, MicroBatch, TokenBlock
from trainers.parallel import ALONE, Layout
from trainers.prefixes import distinct_tokens

# N sequences, T tokens, U of them distinct (trainers/prefixes.py)

_NUM_DUMMY_TOKENS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """One forward pass. What is known of a token stands at its own place t, its log-prob too.

    The log-prob at t is that of token t given the tokens before it in its sequence, so a sequence's first
    token has none, and is never in `response_mask`.
    """

    lengths: tuple[int, ...]  # N, in tokens
    input_ids: Tensor  # [T] int64
    position_ids: Tensor  # [T] int64, from 0 in each sequence
    cu_seqlens: Tensor  # [N + 1] int32: where each sequence begins, and T
    sequence_ids: Tensor  # [T] int64, 0 .. N - 1
    response_mask: Tensor  # [T] bool: the tokens that the loss counts
    rollout_logprobs: Tensor  # [T] float32, 0 outside response_mask
    versions: Tensor  # [T] int32, -1 outside response_mask
    advantages: Tensor  # [T] float32: the sequence's scalar on its response tokens, 0 elsewhere
    rewards: Tensor  # [N] float32: of the whole sequence
    item_ids: Tensor  # [N] int64: equal for sequences that are compared with each other
    ratings: Tensor  # [N] float32, higher is better; 0 where nothing is compared
    distinct: Tensor  # [U] int64: a place of each distinct token
    distinct_ids: Tensor  # [T] int64, 0 .. U - 1: which of them a token is
    layout: Layout = ALONE  # the ranks that share the tokens in the model's forward pass

    @property
    def num_tokens(self) -> int:
        """T."""
        return len(self.input_ids)

    @property
    def num_computed(self) -> int:
        """Tokens that go through the model: U, or T where several ranks share them."""
        return len(self.distinct) if self.layout.size == 1 else self.num_tokens

    @property
    def num_sequences(self) -> int:
        """N; the dummy of an empty micro-batch is one."""
        return len(self.lengths)

    @property
    def has_response(self) -> Tensor:
        """[N] bool: the sequences of which some token is counted, which are all but a dummy."""
        counted = self.response_mask.long()
        return torch.zeros_like(self.item_ids).index_add(0, self.sequence_ids, counted) > 0

    @property
    def max_seqlen(self) -> int:
        """Tokens of the longest sequence."""
        return max(self.lengths)

    def over(self, layout: Layout) -> "Packed":
        """The same, its tokens shared by the ranks of `layout`."""
        return replace(self, layout=layout)

    def to(self, device: torch.device | str) -> "Packed":
        """The same on another device."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)})

    def split(self, values: Tensor) -> tuple[Tensor, ...]:
        """`values` [T, ...] cut into the sequences, in the order of the micro-batch."""
        return torch.split(values, list(self.lengths))


def pack(blocks: Mapping[int, TokenBlock] | Sequence[TokenBlock], micro_batch: MicroBatch) -> Packed:
    """The items' tokens, in order; `blocks[item.block]` holds them.

    An empty micro-batch becomes a dummy of two tokens that nothing counts: its rank must still run a pass
    whenever the others do. Raises ValueError if a block is not what the items say of it.
    """
    if not micro_batch:
        return _dummy()
    spans = [(blocks[item.block], span) for item in micro_batch for span in _spans(blocks[item.block], item)]
    lengths = [span.stop - span.start for _, span in spans]
    num_rows = [item.num_rows for item in micro_batch]
    mask = np.concatenate([block.response_mask[span] for block, span in spans])
    scalars = np.repeat(np.repeat([np.float32(item.advantage) for item in micro_batch], num_rows), lengths)
    return _packed(
        lengths=lengths,
        tokens=np.concatenate([block.tokens[span] for block, span in spans]),
        response_mask=mask,
        rollout_logprobs=np.concatenate([block.rollout_logprobs[span] for block, span in spans]),
        versions=np.concatenate([block.versions[span] for block, span in spans]),
        advantages=np.where(mask, scalars, np.float32(0)),
        rewards=np.repeat([np.float32(item.reward) for item in micro_batch], num_rows),
        item_ids=np.repeat(np.arange(len(micro_batch)), num_rows),
        ratings=np.concatenate([_ratings(blocks[item.block], item) for item in micro_batch]),
    )


def pack_tokens(sequences: Sequence[Sequence[int]]) -> Packed:
    """Bare token sequences; every token but each sequence's first is counted."""
    lengths = [len(tokens) for tokens in sequences]
    mask = np.ones(sum(lengths), dtype=np.bool_)
    mask[_starts(lengths)[:-1]] = False
    return _packed(
        lengths=lengths,
        tokens=np.concatenate([np.asarray(tokens, dtype=np.int32) for tokens in sequences]),
        response_mask=mask,
        rollout_logprobs=np.zeros(len(mask), dtype=np.float32),
        versions=np.full(len(mask), -1, dtype=np.int32),
        advantages=mask.astype(np.float32),
        rewards=np.zeros(len(lengths), dtype=np.float32),
        item_ids=np.arange(len(lengths)),
        ratings=np.zeros(len(lengths), dtype=np.float32),
    )


def _spans(block: TokenBlock, item: Item) -> list[slice]:
    """Where the item's sequences stand in its block."""
    rows = range(item.row, item.row + item.num_rows)
    spans = [block.span(row) for row in rows]
    num_tokens = spans[-1].stop - spans[0].start
    if num_tokens != item.num_tokens:
        raise ValueError(
            f"block {item.block}, row {item.row} holds {num_tokens} tokens, "
            f"but its item says {item.num_tokens}: the batch belongs to other blocks"
        )
    for row, span in zip(rows, spans, strict=True):
        if block.response_mask[span.start]:
            raise ValueError(
                f"block {item.block}, row {row}: response_mask counts the sequence's first token, "
                "which has none before it to be predicted from; put a prompt or a start token before it"
            )
    return spans


def _ratings(block: TokenBlock, item: Item) -> NDArray[np.float32]:
    if block.ranking is None:
        return np.zeros(item.num_rows, dtype=np.float32)
    return block.ranking.ratings[item.row : item.row + item.num_rows]


def _dummy() -> Packed:
    nothing = np.zeros(_NUM_DUMMY_TOKENS)
    return _packed(
        lengths=[_NUM_DUMMY_TOKENS],
        tokens=nothing.astype(np.int32),
        response_mask=nothing.astype(np.bool_),
        rollout_logprobs=nothing.astype(np.float32),
        versions=nothing.astype(np.int32) - 1,
        advantages=nothing.astype(np.float32),
        rewards=np.zeros(1, dtype=np.float32),
        item_ids=np.zeros(1, dtype=np.int64),
        ratings=np.zeros(1, dtype=np.float32),
    )


def _packed(*, lengths: Sequence[int], tokens: NDArray[np.int32], **columns: NDArray[np.generic]) -> Packed:
    """The columns as tensors, with the places that follow from the lengths."""
    starts = _starts(lengths)
    distinct, distinct_ids = distinct_tokens(tokens, lengths)
    return Packed(
        lengths=tuple(lengths),
        input_ids=torch.from_numpy(tokens.astype(np.int64)),
        position_ids=torch.from_numpy(np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)),
        cu_seqlens=torch.from_numpy(starts.astype(np.int32)),
        sequence_ids=torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths)),
        distinct=torch.from_numpy(distinct),
        distinct_ids=torch.from_numpy(distinct_ids),
        layout=ALONE,
        **{name: torch.from_numpy(column) for name, column in columns.items()},
    )


def _starts(lengths: Sequence[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)])
