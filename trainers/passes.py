"""The passes of one rank: micro-batches made of their blocks, and run through a model for a loss or a score."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from algorithms.measures import Measures, merge
from algorithms.objective import LossOutput
from algorithms.supervised import next_token_loss
from experience.records import Batch, MicroBatch, MiniBatch, TokenBlock
from trainers.packed import Packed, pack
from trainers.parallel import ALONE, Layout
from trainers.zero.engine import ZeroEngine

Blocks = Mapping[int, TokenBlock] | Sequence[TokenBlock]
Scores = Mapping[MicroBatch, Tensor]  # of the tokens of each micro-batch, [T]
LossOf = Callable[[MicroBatch], LossOutput]


class Packs:
    """The micro-batches of one batch as packs on the device, each made when it is first asked for.

    `layout`: the ranks that share the tokens of each.
    """

    def __init__(self, blocks: Blocks, device: torch.device, layout: Layout = ALONE) -> None:
        self._blocks = blocks
        self._device = device
        self._layout = layout
        self._made: dict[MicroBatch, Packed] = {}

    def __getitem__(self, micro_batch: MicroBatch) -> Packed:
        if micro_batch not in self._made:
            self._made[micro_batch] = pack(self._blocks, micro_batch).to(self._device).over(self._layout)
        return self._made[micro_batch]


def own_micro_batches(mini_batches: Iterable[MiniBatch]) -> list[MicroBatch]:
    """This rank's micro-batches. Empty ones come as often as they stand there: every rank runs as many passes."""
    return [micro_batch for mini_batch in mini_batches for micro_batch in mini_batch.ranks[0]]


def parted(mini_batch: MiniBatch) -> tuple[tuple[MicroBatch, ...], tuple[MicroBatch, ...]]:
    """This rank's micro-batches that gradients come of, and those that are only measured."""
    (own,) = mini_batch.ranks
    end = len(own) - mini_batch.num_still
    return own[:end], own[end:]


def score(model: Callable[[Packed], Any], micro_batches: Iterable[MicroBatch], packs: Packs) -> Scores:
    """What `model` says of each micro-batch; it must not record gradients."""
    return {micro_batch: model(packs[micro_batch]) for micro_batch in micro_batches}


def backward(engine: ZeroEngine, work: Sequence[tuple[MicroBatch, LossOf]]) -> Measures:
    """The gradients of one update, with its measures: each micro-batch and the loss that is taken of it."""
    measured: list[Measures] = []
    for number, (micro_batch, loss) in enumerate(work, start=1):
        output = loss(micro_batch)
        engine.backward(output.loss, is_last=number == len(work))
        measured.append(output.metrics)
    return merge(measured)


def mixed_in(engine: ZeroEngine, batch: Batch, update: int, packs: Packs) -> list[tuple[MicroBatch, LossOf]]:
    """The pre-training sequences that go into this update of the batch: PPO-ptx, or none."""
    if not batch.mixed:
        return []
    mini_batch = batch.mixed[update]

    def loss(micro_batch: MicroBatch) -> LossOutput:
        packed = packs[micro_batch]
        logprobs, _ = engine(packed)
        output = next_token_loss(logprobs, packed.response_mask, mini_batch.num_loss_tokens, batch.mixed_coef)
        return LossOutput(loss=output.loss, metrics={"mixed/loss": output.metrics["supervised/loss"]})

    return [(micro_batch, loss) for micro_batch in mini_batch.ranks[0]]
