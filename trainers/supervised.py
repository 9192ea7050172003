"""The objective of pre-training and supervised fine-tuning on one rank: predict the next token."""

from dataclasses import dataclass

import torch

from algorithms.measures import MetricMean
from algorithms.objective import LossOutput
from experience.records import MiniBatch
from trainers.objective import Forward


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisedObjective:
    """The mean negative log-prob of the tokens that the mask counts."""

    @property
    def temperature(self) -> float:
        """The model's own distribution."""
        return 1.0

    @property
    def needs_reference(self) -> bool:
        """Nothing to compare with."""
        return False

    def needs_old_logprobs(self, num_updates: int) -> bool:
        """The loss looks at the current policy alone."""
        return False

    def loss(self, forward: Forward, mini_batch: MiniBatch) -> LossOutput:
        """The sum over this micro-batch's tokens, over the number of all ranks' tokens."""
        mask = forward.packed.response_mask
        negative = -torch.where(mask, forward.logprobs, 0).sum()
        measured = MetricMean(total=negative.detach().double(), count=mask.sum().double())
        return LossOutput(loss=negative / max(1, mini_batch.num_loss_tokens), metrics={"supervised/loss": measured})
