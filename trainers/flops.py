"""Floating-point operations that a rank's part of a batch needs."""

from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedModel

from experience.records import MicroBatch
from trainers.costs import forward_flops
from trainers.model import PolicyModel
from trainers.passes import Packs


def pass_flops(module: nn.Module, micro_batches: Sequence[MicroBatch], packs: Packs) -> float:
    """One forward pass of the model over each of this rank's micro-batches.

    What sequences share is computed, and counted, once. Heads other than a language model's cost nothing to speak of.
    """
    items = [item for micro_batch in micro_batches for item in micro_batch]
    config = next(part.config for part in module.modules() if isinstance(part, PreTrainedModel))
    num_scored = sum(item.num_loss_tokens for item in items) if isinstance(module, PolicyModel) else 0
    num_tokens = sum(packs[micro_batch].num_computed for micro_batch in micro_batches if micro_batch)
    return forward_flops(config, [item.num_tokens for item in items], num_scored, num_tokens)
