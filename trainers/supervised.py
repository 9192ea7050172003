"""The objective of pre-training and supervised fine-tuning on one rank: predict the next token."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from algorithms.measures import Measures, mean_over
from algorithms.objective import LossOutput
from algorithms.supervised import next_token_loss
from experience.records import MiniBatch
from trainers.objective import Model
from trainers.packed import Packed


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisedObjective:
    """The mean negative log-prob of the tokens that the mask counts."""

    @property
    def needs_reward_head(self) -> bool:
        """Tokens are predicted."""
        return False

    @property
    def needs_reference(self) -> bool:
        """Nothing to compare with."""
        return False

    def loss(self, model: Model, packed: Packed, mini_batch: MiniBatch, reference: Model | None) -> LossOutput:
        """The sum over this micro-batch's tokens, over the number of all ranks' tokens."""
        logprobs, _ = model(packed)
        return next_token_loss(logprobs, packed.response_mask, mini_batch.num_loss_tokens)

    def measure(self, model: Model, packed: Packed, reference: Model | None) -> Measures:
        """The cross-entropy."""
        logprobs, _ = model(packed)
        return {"eval/loss": mean_over(-logprobs, packed.response_mask)}

    def derived(self, metrics: Mapping[str, float]) -> Mapping[str, float]:
        """The perplexity."""
        return {
            perplexity_name: perplexity(metrics[loss_name])
            for loss_name, perplexity_name in (
                ("supervised/loss", "supervised/perplexity"),
                ("eval/loss", "eval/perplexity"),
            )
            if loss_name in metrics
        }


def perplexity(cross_entropy: float) -> float:
    """exp(cross-entropy); infinite where that is no number."""
    try:
        return math.exp(cross_entropy)
    except OverflowError:
        return math.inf
