"""Floating-point operations that a rank's part of a batch needs."""

from collections.abc import Iterable

from torch import nn
from transformers import PreTrainedModel

from experience.records import MiniBatch
from trainers.costs import forward_flops
from trainers.model import PolicyModel


def pass_flops(module: nn.Module, mini_batches: Iterable[MiniBatch]) -> float:
    """One forward pass of the model over this rank's part of the mini-batches.

    Heads other than a language model's cost nothing to speak of.
    """
    items = [item for batch in mini_batches for micro_batch in batch.ranks[0] for item in micro_batch]
    config = next(part.config for part in module.modules() if isinstance(part, PreTrainedModel))
    num_scored = sum(item.num_loss_tokens for item in items) if isinstance(module, PolicyModel) else 0
    return forward_flops(config, [item.num_tokens for item in items], num_scored)
