"""The objectives of comparing responses on one rank: a reward model's, and direct preference optimisation."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from algorithms.measures import Measure, Measures, mean_over
from algorithms.objective import LossOutput
from algorithms.preference import accuracy_bounds, bradley_terry_loss, implicit_rewards, pair_metrics, ranked_pairs
from experience.records import MiniBatch
from trainers.objective import Model
from trainers.packed import Packed

# N sequences of one micro-batch, T tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardObjective:
    """Bradley-Terry over all pairs of ranked responses. arXiv:2203.02155, eq. 1."""

    margin_scale: float

    @property
    def needs_reward_head(self) -> bool:
        """One number a response."""
        return True

    @property
    def needs_reference(self) -> bool:
        """Rewards are compared with each other alone."""
        return False

    def loss(self, model: Model, packed: Packed, mini_batch: MiniBatch, reference: Model | None) -> LossOutput:
        """Each prompt counts once, however many pairs its responses make."""
        pairs = ranked_pairs(packed.item_ids, packed.ratings, self.margin_scale)
        return bradley_terry_loss(model(packed), pairs, mini_batch.num_items)

    def measure(self, model: Model, packed: Packed, reference: Model | None) -> Measures:
        """How well held-out pairs are told apart, and how rewards are spread over their responses."""
        rewards = model(packed)
        return {
            **_held_out(rewards, packed),
            "eval/reward_mean": mean_over(rewards, packed.has_response),
            "eval/reward_square_mean": mean_over(rewards.double().square(), packed.has_response),
        }

    def derived(self, metrics: Mapping[str, float]) -> Mapping[str, float]:
        """The rewards' standard deviation."""
        if "eval/reward_mean" not in metrics:
            return {}
        variance = metrics["eval/reward_square_mean"] - metrics["eval/reward_mean"] ** 2
        return {"eval/reward_std": max(variance, 0.0) ** 0.5}


@dataclass(frozen=True, slots=True, kw_only=True)
class DpoObjective:
    """Direct preference optimisation, arXiv:2305.18290: Bradley-Terry on the policy's own rewards."""

    beta: float
    label_smoothing: float

    @property
    def needs_reward_head(self) -> bool:
        """A policy's own log-probs are its rewards."""
        return False

    @property
    def needs_reference(self) -> bool:
        """A response's reward is what the policy gained over the reference."""
        return True

    def loss(self, model: Model, packed: Packed, mini_batch: MiniBatch, reference: Model | None) -> LossOutput:
        """Each prompt counts once, however many pairs its responses make."""
        logprobs, ref_logprobs = _both(model, packed, reference)
        rewards = self._rewards(logprobs, ref_logprobs, packed)
        pairs = ranked_pairs(packed.item_ids, packed.ratings)
        output = bradley_terry_loss(rewards, pairs, mini_batch.num_items, self.label_smoothing)
        drift: Measure = mean_over((logprobs - ref_logprobs).abs(), packed.response_mask)
        return LossOutput(loss=output.loss, metrics={**output.metrics, "preference/drift": drift})

    def measure(self, model: Model, packed: Packed, reference: Model | None) -> Measures:
        """How well held-out pairs are told apart."""
        return _held_out(self._rewards(*_both(model, packed, reference), packed), packed)

    def derived(self, metrics: Mapping[str, float]) -> Mapping[str, float]:
        """Nothing."""
        return {}

    def _rewards(self, logprobs: Tensor, ref_logprobs: Tensor, packed: Packed) -> Tensor:
        return implicit_rewards(_summed(logprobs, packed), _summed(ref_logprobs, packed), self.beta)


def _both(model: Model, packed: Packed, reference: Model | None) -> tuple[Tensor, Tensor]:
    """Log-probs of policy and reference, [T] each, 0 outside the responses."""
    assert reference is not None
    with torch.no_grad():
        ref_logprobs, _ = reference(packed)
    logprobs, _ = model(packed)
    return logprobs, ref_logprobs


def _summed(logprobs: Tensor, packed: Packed) -> Tensor:
    """The log-prob of each whole response, [N]."""
    return logprobs.new_zeros(packed.num_sequences).index_add(0, packed.sequence_ids, logprobs)


def _held_out(rewards: Tensor, packed: Packed) -> dict[str, Measure]:
    """The metrics of the pairs under names of their own, with the interval of the accuracy."""
    pairs = ranked_pairs(packed.item_ids, packed.ratings)
    low, high = accuracy_bounds(rewards, pairs, packed.item_ids)
    named = {f"eval/{name.replace('/', '_')}": measure for name, measure in pair_metrics(rewards, pairs).items()}
    return {**named, "eval/preference_accuracy_low": low, "eval/preference_accuracy_high": high}
