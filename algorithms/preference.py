"""The loss on preferences: Bradley-Terry over ranked responses, with a model's rewards or a policy's own."""

# M responses, P pairs of them

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from algorithms.measures import Measure, MetricStatistic, mean_over
from algorithms.objective import LossOutput
from metrics.intervals import clustered_wilson


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


def bradley_terry_loss(rewards: Tensor, pairs: Pairs, num_prompts: int, label_smoothing: float = 0.0) -> LossOutput:
    """This micro-batch's share of mean -log sigmoid(r_chosen - r_rejected - margin) over the step's prompts.

    `rewards`: [M] with gradient. `num_prompts`: those with at least one pair, over micro-batches and ranks.
    `label_smoothing`: the chance that a pair was labelled the wrong way round (conservative DPO,
    https://ericmitchell.ai/cdpo.pdf, eq. 3).
    """
    differences = rewards[pairs.chosen] - rewards[pairs.rejected]
    gaps = differences - pairs.margins
    losses = -(1 - label_smoothing) * logsigmoid(gaps) - label_smoothing * logsigmoid(-gaps)
    loss = (losses * pairs.weights).sum() / max(num_prompts, 1)
    return LossOutput(loss=loss, metrics=pair_metrics(rewards, pairs))


def implicit_rewards(logprobs: Tensor, ref_logprobs: Tensor, beta: float) -> Tensor:
    """What a policy, against its reference, says that responses are worth. DPO, arXiv:2305.18290, eq. 5.

    Summed log-probs of whole responses, [M]. With these rewards the Bradley-Terry loss is DPO's, eq. 7.
    """
    return beta * (logprobs - ref_logprobs)


def pair_metrics(rewards: Tensor, pairs: Pairs) -> dict[str, Measure]:
    """How well `rewards` [M] tell the pairs apart; every pair counts alike, margins and smoothing left out."""
    chosen, rejected = rewards.detach()[pairs.chosen], rewards.detach()[pairs.rejected]
    differences = chosen - rejected
    everywhere = torch.ones_like(differences, dtype=torch.bool)
    return {
        "preference/loss": mean_over(-logsigmoid(differences), everywhere),
        "preference/accuracy": mean_over(_wins(differences), everywhere),
        "preference/reward_difference": mean_over(differences, everywhere),
        "preference/chosen_reward": mean_over(chosen, everywhere),
        "preference/rejected_reward": mean_over(rejected, everywhere),
        "preference/brier": mean_over((1 - differences.sigmoid()).square(), everywhere),
        "preference/calibration_error": MetricStatistic(sums=calibration_sums(differences), value=calibration_error),
    }


def accuracy_bounds(rewards: Tensor, pairs: Pairs, prompts: Tensor) -> tuple[Measure, Measure]:
    """Ends of the 95 % interval of the accuracy, with the pairs of one prompt as one cluster: they share responses.

    `rewards` and `prompts`: [M], as `ranked_pairs` takes them.
    """
    _, cluster = prompts[pairs.chosen].unique(return_inverse=True)
    nothing = torch.zeros(len(prompts), dtype=torch.float64, device=rewards.device)
    wins = _wins(rewards[pairs.chosen] - rewards[pairs.rejected])
    won = nothing.index_add(0, cluster, wins)
    trials = nothing.index_add(0, cluster, torch.ones_like(wins))
    moments = torch.stack([won, trials, won * won, won * trials, trials * trials, (trials > 0).double()]).sum(1)

    def end(side: int) -> MetricStatistic:
        return MetricStatistic(sums=moments, value=lambda sums: clustered_wilson(sums.tolist())[side])

    return end(0), end(1)


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
    return float((predicted - actual).abs().sum() / count.sum())  # NaN where there is no pair


def _wins(differences: Tensor) -> Tensor:
    """1 where the chosen response is rated higher, 1/2 where both are rated the same, else 0."""
    return (differences.detach().double().sign() + 1) / 2
