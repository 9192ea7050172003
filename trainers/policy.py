"""The objective of the policy on one rank: what must be known of a micro-batch, and the loss made of it."""

from dataclasses import dataclass

from torch import Tensor

from algorithms.aggregation import LossTotals
from algorithms.algorithm import Algorithm
from algorithms.objective import LossInputs, LossOutput, policy_loss
from experience.records import MiniBatch
from trainers.packed import Packed

# T packed tokens of one micro-batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """A micro-batch and what was made of it, each [T] and 0 outside its response_mask.

    `logprobs` and `entropies` carry the gradient; the last two are None where the algorithm needs none.
    """

    packed: Packed
    logprobs: Tensor
    entropies: Tensor
    advantages: Tensor
    old_logprobs: Tensor | None
    ref_logprobs: Tensor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyObjective:
    """The algorithm's policy loss, at the temperature of sampling."""

    algorithm: Algorithm
    temperature: float
    max_response_tokens: int

    def loss(self, algorithm: Algorithm, forward: Forward, mini_batch: MiniBatch) -> LossOutput:
        """See `policy_loss`. `algorithm`: ours with the KL coefficient of this step."""
        packed = forward.packed
        inputs = LossInputs(
            logprobs=forward.logprobs,
            entropy=forward.entropies,
            rollout_logprobs=packed.rollout_logprobs,
            advantages=forward.advantages,
            response_mask=packed.response_mask,
            sequence_ids=packed.sequence_ids,
            old_logprobs=forward.old_logprobs,
            ref_logprobs=forward.ref_logprobs,
        )
        return policy_loss(algorithm, inputs, self.totals(mini_batch))

    def totals(self, mini_batch: MiniBatch) -> LossTotals:
        """What losses of this update divide by."""
        return LossTotals(
            num_loss_tokens=mini_batch.num_loss_tokens,
            num_sequences=mini_batch.num_sequences,
            max_response_tokens=self.max_response_tokens,
        )
