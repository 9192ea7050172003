"""The objective of reinforcement learning on one rank."""

from collections.abc import Mapping
from dataclasses import dataclass

from algorithms.aggregation import LossTotals
from algorithms.algorithm import Algorithm
from algorithms.objective import LossInputs, LossOutput, policy_loss
from experience.records import MiniBatch
from trainers.objective import Forward


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyObjective:
    """The algorithm's policy loss, with one advantage a sequence, at the temperature of sampling."""

    algorithm: Algorithm
    temperature: float
    max_response_tokens: int

    def __post_init__(self) -> None:
        if self.algorithm.has_token_rewards:
            raise ValueError(
                f"algorithm.name={self.algorithm.name!r} needs token-level advantages, which the policy's ranks "
                "do not compute; choose an algorithm with one advantage a sequence, e.g. grpo, rloo or dapo"
            )
        for column in ("kl_target", "reference_refresh_steps", "ptx_coef"):
            if getattr(self.algorithm, column):
                raise ValueError(f"algorithm.{column}: not supported by the policy's ranks yet; set it to 0")

    @property
    def needs_reference(self) -> bool:
        """Some term of the loss compares with the frozen reference."""
        return self.algorithm.needs_reference

    def needs_old_logprobs(self, num_updates: int) -> bool:
        """With a single update the current log-probs are the old ones."""
        return self.algorithm.needs_old_logprobs(num_updates)

    def loss(self, forward: Forward, mini_batch: MiniBatch) -> LossOutput:
        """See `policy_loss`."""
        packed = forward.packed
        inputs = LossInputs(
            logprobs=forward.logprobs,
            entropy=forward.entropies,
            rollout_logprobs=packed.rollout_logprobs,
            advantages=packed.advantages,
            response_mask=packed.response_mask,
            sequence_ids=packed.sequence_ids,
            old_logprobs=forward.old_logprobs,
            ref_logprobs=forward.ref_logprobs,
        )
        totals = LossTotals(
            num_loss_tokens=mini_batch.num_loss_tokens,
            num_sequences=mini_batch.num_sequences,
            max_response_tokens=self.max_response_tokens,
        )
        return policy_loss(self.algorithm, inputs, totals)

    def derived(self, metrics: Mapping[str, float]) -> Mapping[str, float]:
        """Nothing."""
        return {}
