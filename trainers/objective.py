"""What a rank is trained for: the loss of one micro-batch, and what must be known before it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from algorithms.objective import LossOutput
from experience.records import MiniBatch
from trainers.packed import Packed

# T packed tokens of one micro-batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """A micro-batch and what models say of it, each [T] and 0 outside its response_mask.

    `logprobs` and `entropies` carry the gradient; the others are None where the objective needs none.
    """

    packed: Packed
    logprobs: Tensor
    entropies: Tensor
    old_logprobs: Tensor | None
    ref_logprobs: Tensor | None


class Objective(Protocol):
    """One way to train. Frozen and small: it travels to each rank."""

    @property
    def temperature(self) -> float:
        """Logits are divided by this."""
        ...

    @property
    def needs_reference(self) -> bool:
        """The frozen first policy scores each micro-batch too."""
        ...

    def needs_old_logprobs(self, num_updates: int) -> bool:
        """The policy scores the whole batch before the first of `num_updates` optimiser steps on it."""
        ...

    def loss(self, forward: Forward, mini_batch: MiniBatch) -> LossOutput:
        """This micro-batch's share of the loss of the optimiser step; `mini_batch` has its totals."""
        ...

    def derived(self, metrics: Mapping[str, float]) -> Mapping[str, float]:
        """Further metrics that follow from the reduced ones."""
        ...
