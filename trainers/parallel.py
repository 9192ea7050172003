"""Sequence parallelism: which ranks share the tokens of a micro-batch, and how these get from one to the other.

Ulysses, arXiv:2309.14509. The ranks of a group are given the same micro-batches. Each takes an equal, contiguous
part of the pack's tokens through the model; around attention the parts are exchanged, so that each rank sees all
tokens for its part of the heads:

    [S tokens, all heads] ── all-to-all ──► [T tokens, H / size heads] ── attention ── all-to-all ──► [S, all heads]

What a head of the model says of the own tokens is gathered to [T]. Every rank then holds the same, whole loss, whose
gradient flows back through the rank's own tokens alone: the sum over ranks is the gradient.
"""

import datetime
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch import distributed as dist

# T tokens of the pack, S of them on each rank (the last may hold padding), H heads, D head dimension


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A rank's place among the `size` ranks that share each micro-batch; by default it has its own ones."""

    rank: int = 0
    size: int = 1
    group: Any = None  # a ProcessGroup of these ranks; None when alone

    def share(self, num_tokens: int) -> int:
        """S: tokens of each rank, padding included."""
        return -(-num_tokens // self.size)

    def own(self, values: Tensor) -> Tensor:
        """This rank's part of `values` [T, ...], filled up with zeros: [S, ...]."""
        if self.size == 1:
            return values
        share = self.share(len(values))
        return _fill(values, share * self.size)[self.rank * share : (self.rank + 1) * share]

    def gather(self, values: Tensor, num_tokens: int) -> Tensor:
        """All ranks' parts `values` [S, ...] as [T, ...]. The gradient is that of the own part: see the module."""
        if self.size == 1:
            return values
        return _Gather.apply(values, self)[:num_tokens]  # type: ignore[index]

    def heads_of(self, states: Tensor, num_tokens: int) -> Tensor:
        """All tokens for this rank's heads, [1, H / size, T, D], from the own tokens of all heads: [1, H, S, D].

        Fewer heads than ranks, as keys and values may have, are repeated until each rank has one.
        """
        heads = states[0].repeat_interleave(math.lcm(states.shape[1], self.size) // states.shape[1], 0)
        received = _exchange(heads.unflatten(0, (self.size, -1)), self)  # [size, H / size, S, D], by the tokens' rank
        return received.transpose(0, 1).flatten(1, 2)[:, :num_tokens].unsqueeze(0)

    def tokens_of(self, states: Tensor) -> Tensor:
        """The own tokens for all heads, [1, S, H, D], from all tokens of this rank's heads: [1, T, H / size, D]."""
        share = self.share(states.shape[1])
        tokens = _fill(states[0], share * self.size).unflatten(0, (self.size, share))
        received = _exchange(tokens, self)  # [size, S, H / size, D], by the heads' rank
        return received.transpose(0, 1).flatten(1, 2).unsqueeze(0)


ALONE = Layout()


def join_layout(size: int, timeout_seconds: float) -> Layout:
    """This process's place among neighbouring ranks; entered by all ranks of the default process group."""
    if size == 1:
        return ALONE
    world, rank = dist.get_world_size(), dist.get_rank()
    timeout = datetime.timedelta(seconds=timeout_seconds)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    # Each rank enters the making of every group, also of those that it is no part of.
    groups = [dist.new_group(list(range(start, start + size)), timeout, backend) for start in range(0, world, size)]
    return Layout(rank=rank % size, size=size, group=groups[rank // size])


class _Gather(torch.autograd.Function):
    """[S, ...] on each rank to [size * S, ...] on all; backwards each takes its own part."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, layout: Layout) -> Tensor:  # type: ignore[override]
        ctx.layout, ctx.share = layout, len(values)
        parts = [torch.empty_like(values) for _ in range(layout.size)]
        dist.all_gather(parts, values.contiguous(), group=layout.group)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        start = ctx.layout.rank * ctx.share
        return grad[start : start + ctx.share], None


class _Exchange(torch.autograd.Function):
    """Part i of `parts` [size, ...] goes to rank i; part i of the result is from there. Backwards, the same."""

    @staticmethod
    def forward(ctx: Any, parts: Tensor, layout: Layout) -> Tensor:  # type: ignore[override]
        ctx.layout = layout
        return _all_to_all(parts, layout)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return _all_to_all(grad, ctx.layout), None


def _exchange(parts: Tensor, layout: Layout) -> Tensor:
    return _Exchange.apply(parts, layout)  # type: ignore[return-value]


def _all_to_all(parts: Tensor, layout: Layout) -> Tensor:
    sent = parts.contiguous()
    received = torch.empty_like(sent)
    # As bytes: gloo does not know every dtype that a model may have.
    dist.all_to_all_single(_as_bytes(received), _as_bytes(sent), group=layout.group)
    return received


def _as_bytes(parts: Tensor) -> Tensor:
    return parts.view(len(parts), -1).view(torch.uint8)


def _fill(values: Tensor, length: int) -> Tensor:
    """`values` [T, ...] with zeros at its end: [length, ...]."""
    return F.pad(values, [0, 0] * (values.dim() - 1) + [0, length - len(values)])
