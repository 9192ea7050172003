"""The objective of pre-training and supervised fine-tuning on one rank: predict the next token."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from algorithms.objective import LossOutput
from algorithms.supervised import next_token_loss
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
        return next_token_loss(forward.logprobs, forward.packed.response_mask, mini_batch.num_loss_tokens)

    def derived(self, metrics: Mapping[str, float]) -> Mapping[str, float]:
        """The perplexity."""
        return {"supervised/perplexity": perplexity(metrics["supervised/loss"])}


def perplexity(cross_entropy: float) -> float:
    """exp(cross-entropy); infinite where that is no number."""
    try:
        return math.exp(cross_entropy)
    except OverflowError:
        return math.inf
