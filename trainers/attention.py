"""Attention over packed sequences, for machines without FlashAttention's kernels.

`segments` goes into transformers' table of attention functions. Sequences of similar length share a bucket:
their queries, keys and values are gathered to [S, H, L, D], attended causally in one call, and put back.
Padding stands at the right, where causality alone keeps it out of every real token's view: no mask is made.

Tokens that sequences of a pack have in common come in once (trainers/prefixes.py). Attention alone spreads them to all
sequences that have them, and keeps one of what are equal results.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.flash_attention import flash_attention_forward
from transformers.utils.import_utils import is_flash_attn_2_available

from trainers.packed import Packed
from trainers.parallel import Layout

# T tokens, U of them distinct; a bucket has S sequences, L tokens the longest of them; H heads, D head dimension

SEGMENTS = "segments"
FLASH = "flash_attention_2"

Attend = Callable[..., tuple[Tensor, None]]

# A sequence joins a bucket if it wastes at most a quarter of its row, or too little to be worth a call.
_MIN_FILL = 0.75
_MAX_WASTED_TOKENS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Sequences that are attended together. `tokens`: [S * L], which distinct token each slot holds."""

    num_sequences: int
    tokens: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """What is distinct in a pack. `ids`: [T], which distinct token each is; `places`: [U], where one of each stands."""

    ids: Tensor
    places: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Segments:
    """Where the tokens of a pack go. `slots`: [U], one slot of each distinct token among those of all buckets."""

    buckets: tuple[Bucket, ...]
    slots: Tensor


def attention_for(device: torch.device, dtype: torch.dtype) -> str:
    """The attn_implementation to ask transformers for."""
    has_kernels = device.type == "cuda" and dtype != torch.float32 and is_flash_attn_2_available()
    return FLASH if has_kernels else SEGMENTS


def attention_arguments(packed: Packed, implementation: str) -> Mapping[str, Any]:
    """What the attention function needs to know of the pack; goes through the model's keyword arguments.

    ValueError when several ranks share the pack and the implementation is none that can be shared.
    """
    shared = {} if packed.layout.size == 1 else {"layout": packed.layout, "num_tokens": packed.num_tokens}
    if shared and implementation not in (SEGMENTS, FLASH):
        raise ValueError(
            f"trainer.sequence_parallel_size={packed.layout.size} with attention {implementation!r}: only {SEGMENTS!r} "
            f"and {FLASH!r} can be shared by ranks; set trainer.sequence_parallel_size=1"
        )
    spread = None if shared else Spread(ids=packed.distinct_ids, places=packed.distinct)
    if implementation == SEGMENTS:
        return {"segments": plan_segments(packed.lengths, packed.input_ids.device, spread), **shared}
    return {
        **shared,
        **({} if spread is None else {"spread": spread}),
        "cu_seq_lens_q": packed.cu_seqlens,
        "cu_seq_lens_k": packed.cu_seqlens,
        "max_length_q": packed.max_seqlen,
        "max_length_k": packed.max_seqlen,
    }


def plan_segments(lengths: Sequence[int], device: torch.device, spread: Spread | None = None) -> Segments:
    """Buckets for sequences of these lengths that stand one after the other; None: every token is distinct."""
    lengths_tensor = torch.tensor(lengths)
    starts = lengths_tensor.cumsum(0) - lengths_tensor
    slots = torch.empty(int(lengths_tensor.sum()), dtype=torch.int64)
    buckets = []
    num_slots = 0
    for members in _bucket_members(lengths):
        places = torch.arange(lengths[members[0]])  # the first is the longest
        is_token = places < lengths_tensor[members, None]
        # A slot of padding repeats its own sequence's last token, so that a NaN never crosses sequences:
        # the kernel multiplies what it masks by 0, and 0 * NaN is NaN.
        tokens = starts[members, None] + places.minimum(lengths_tensor[members, None] - 1)
        slots[tokens[is_token]] = num_slots + is_token.flatten().nonzero().squeeze(1)
        num_slots += tokens.numel()
        places = tokens.flatten().to(device)
        buckets.append(Bucket(num_sequences=len(members), tokens=places if spread is None else spread.ids[places]))
    slots = slots.to(device)
    return Segments(buckets=tuple(buckets), slots=slots if spread is None else slots[spread.places])


def _bucket_members(lengths: Sequence[int]) -> list[list[int]]:
    """Indices of the sequences of each bucket, longest first."""
    buckets: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        longest = lengths[buckets[-1][0]] if buckets else 0
        if buckets and lengths[index] >= min(_MIN_FILL * longest, longest - _MAX_WASTED_TOKENS):
            buckets[-1].append(index)
        else:
            buckets.append([index])
    return buckets


def attend_segments(  # noqa: PLR0913  the signature is what transformers calls
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    segments: Segments,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each sequence. `query`: [1, H, U, D]; returns [1, U, H, D]."""
    assert attention_mask is None, "a mask would hide the sequences' bounds from transformers"
    outputs = []
    for bucket in segments.buckets:
        q, k, v = (_gather(states, bucket) for states in (query, key, value))
        _check_window(sliding_window, q.shape[2])
        attended = F.scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
        )
        outputs.append(attended.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs).index_select(0, segments.slots).unsqueeze(0), None


def _gather(states: Tensor, bucket: Bucket) -> Tensor:
    """[1, H, U, D] to [S, H, L, D]."""
    chosen = states.squeeze(0).transpose(0, 1).index_select(0, bucket.tokens)
    return chosen.unflatten(0, (bucket.num_sequences, -1)).transpose(1, 2)


def _check_window(sliding_window: int | None, max_length: int) -> None:
    if sliding_window is not None and max_length > sliding_window:
        raise ValueError(
            f"a sequence of {max_length} tokens is longer than the model's sliding_window={sliding_window}, "
            "which packed attention without FlashAttention can't apply; shorten the sequences"
        )


def shareable(attend: Attend) -> Attend:
    """The attention function, also for packs whose tokens several ranks share: each attends for some heads."""

    def attend_shared(  # noqa: PLR0913  the signature is what transformers calls
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *,
        layout: Layout | None = None,
        num_tokens: int = 0,
        **options: Any,
    ) -> tuple[Tensor, None]:
        if layout is None:
            return attend(module, query, key, value, attention_mask, **options)
        q, k, v = (layout.heads_of(states, num_tokens) for states in (query, key, value))
        return layout.tokens_of(attend(module, q, k, v, attention_mask, **options)[0]), None

    return attend_shared


def spreading(attend: Attend) -> Attend:
    """The attention function, also for packs that hold distinct tokens only: it gets every sequence's tokens."""

    def attend_spread(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *,
        spread: Spread | None = None,
        **options: Any,
    ) -> tuple[Tensor, None]:
        if spread is None:
            return attend(module, query, key, value, attention_mask, **options)
        q, k, v = (states.index_select(2, spread.ids) for states in (query, key, value))
        return attend(module, q, k, v, attention_mask, **options)[0].index_select(1, spread.places), None

    return attend_spread


AttentionInterface.register(SEGMENTS, shareable(attend_segments))
AttentionInterface.register(FLASH, spreading(shareable(flash_attention_forward)))
AttentionMaskInterface.register(SEGMENTS, lambda *args, **kwargs: None)
