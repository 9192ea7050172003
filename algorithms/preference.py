"""Losses on preferences: Bradley-Terry over ranked responses, and DPO over pairs."""

# M responses, P pairs of them

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from algorithms.measures import Measure, mean_over
from algorithms.objective import LossOutput


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Which responses were preferred to which; each [P].

    `weights` add up to 1 over each prompt, so that a prompt with many responses counts like any other.
    """

    chosen: Tensor  # int64, places among the M responses
    rejected: Tensor
    weights: Tensor
    margins: Tensor


def ranked_pairs(prompts: Tensor, ratings: Tensor, margin_scale: float = 0.0) -> Pairs:
    """All pairs of responses to one prompt with different ratings. InstructGPT, arXiv:2203.02155.

    `prompts`: [M], a number that the responses to a prompt share. `ratings`: [M], higher is better (minus
    the rank, or a label); `margin_scale` times their difference is the pair's margin.
    """
    is_better = ratings[:, None] > ratings[None, :]
    chosen, rejected = (is_better & (prompts[:, None] == prompts[None, :])).nonzero(as_tuple=True)
    _, pair_prompt, num_pairs = prompts[chosen].unique(return_inverse=True, return_counts=True)
    return Pairs(
        chosen=chosen,
        rejected=rejected,
        weights=1 / num_pairs[pair_prompt].float(),
        margins=margin_scale * (ratings[chosen] - ratings[rejected]).float(),
    )


def bradley_terry_loss(rewards: Tensor, pairs: Pairs, num_prompts: int) -> LossOutput:
    """This micro-batch's share of mean -log sigmoid(r_chosen - r_rejected - margin) over the step's prompts.

    `rewards`: [M] with gradient. `num_prompts`: those with at least one pair, over micro-batches and ranks.
    """
    differences = rewards[pairs.chosen] - rewards[pairs.rejected]
    losses = -logsigmoid(differences - pairs.margins) * pairs.weights
    return LossOutput(loss=losses.sum() / max(num_prompts, 1), metrics=_pair_metrics(differences))


@dataclass(frozen=True, slots=True, kw_only=True)
class DpoInputs:
    """Summed log-probs of whole responses under policy (with gradient) and reference, each [P]."""

    chosen_logprobs: Tensor
    rejected_logprobs: Tensor
    ref_chosen_logprobs: Tensor
    ref_rejected_logprobs: Tensor


def dpo_loss(inputs: DpoInputs, beta: float, num_pairs: int) -> LossOutput:
    """This micro-batch's share of mean -log sigmoid(beta [(lc - lc_ref) - (lr - lr_ref)]) over the step's
    `num_pairs`. arXiv:2305.18290, eq. 7.
    """
    chosen = beta * (inputs.chosen_logprobs - inputs.ref_chosen_logprobs)
    rejected = beta * (inputs.rejected_logprobs - inputs.ref_rejected_logprobs)
    loss = -logsigmoid(chosen - rejected).sum() / max(num_pairs, 1)
    everywhere = torch.ones_like(chosen, dtype=torch.bool)
    metrics = _pair_metrics(chosen - rejected)
    metrics["preference/chosen_reward"] = mean_over(chosen, everywhere)
    metrics["preference/rejected_reward"] = mean_over(rejected, everywhere)
    return LossOutput(loss=loss, metrics=metrics)


def calibration_sums(differences: Tensor, num_bins: int = 10) -> Tensor:
    """Pairs, predicted and actual wins of the likelier side, by its predicted probability 1/2..1: [3, num_bins].

    Sums to be added over micro-batches and ranks, for `calibration_error`. `differences`: [P], of chosen
    and rejected rewards.
    """
    confidence = differences.detach().double().abs().sigmoid()
    bins = ((confidence - 0.5) * 2 * num_bins).long().clamp(max=num_bins - 1)
    columns = torch.stack([torch.ones_like(confidence), confidence, _wins(differences)])
    return torch.zeros(3, num_bins, dtype=torch.float64, device=differences.device).index_add(1, bins, columns)


def calibration_error(sums: Tensor) -> float:
    """Expected calibration error: mean |predicted - actual| over pairs, bin by bin. Guo, arXiv:1706.04599."""
    count, predicted, actual = sums
    return float((predicted - actual).abs().sum() / count.sum())


def _pair_metrics(differences: Tensor) -> dict[str, Measure]:
    everywhere = torch.ones_like(differences, dtype=torch.bool)
    return {
        "preference/loss": mean_over(-logsigmoid(differences), everywhere),
        "preference/accuracy": mean_over(_wins(differences), everywhere),
        "preference/reward_difference": mean_over(differences, everywhere),
        "preference/brier": mean_over((1 - differences.sigmoid()).square(), everywhere),
    }


def _wins(differences: Tensor) -> Tensor:
    """1 where the chosen response is rated higher, 1/2 where both are rated the same, else 0."""
    return (differences.detach().double().sign() + 1) / 2
