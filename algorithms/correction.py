"""Correction for rollout engines whose log-probs differ from the trainer's, or whose policy is older."""

# T packed tokens of one micro-batch

import torch
from torch import Tensor

from algorithms.measures import Measure, max_over, mean_over
from algorithms.segments import bounded_exp, response_lengths, segment_sum
from algorithms.traits import Correction, Level


def correction_weights(
    correction: Correction, log_weight: Tensor, response_mask: Tensor, sequence_ids: Tensor
) -> Tensor:
    """Factors [T] of the token losses, without gradient. `log_weight`: lo - lb [T], 0 outside the mask.

    Masked tokens stay in the loss's denominators, which are counted before any log-prob is known.
    """
    log_weight = log_weight.detach()
    factors = torch.ones_like(log_weight)
    if correction.weight != "none":
        weight = bounded_exp(_at_level(correction.weight, log_weight, response_mask, sequence_ids))
        factors = weight.clamp(max=correction.high)
    if correction.mask != "none":
        weight = bounded_exp(_at_level(correction.mask, log_weight, response_mask, sequence_ids))
        is_inside = (weight >= correction.low) & (weight <= correction.high)
        factors = torch.where(is_inside, factors, 0)
    return factors


def _at_level(level: Level, log_weight: Tensor, response_mask: Tensor, sequence_ids: Tensor) -> Tensor:
    """The log weight of each token, of the product over its sequence, or of their geometric mean."""
    if level == "token":
        return log_weight
    summed = segment_sum(log_weight, sequence_ids)
    if level == "geometric":
        summed = summed / response_lengths(response_mask, sequence_ids).clamp(min=1)
    return summed[sequence_ids]


def mismatch_metrics(log_weight: Tensor, factors: Tensor, response_mask: Tensor) -> dict[str, Measure]:
    """How far trainer and engine are apart; reported whether or not it is corrected.

    `mismatch/kl` is k3 of KL(engine || trainer): exp(lo - lb) - 1 - (lo - lb).
    """
    size = log_weight.detach().abs()
    return {
        "mismatch/mean_abs": mean_over(size, response_mask),
        "mismatch/max_abs": max_over(size, response_mask),
        "mismatch/kl": mean_over(bounded_exp(log_weight) - 1 - log_weight, response_mask),
        "mismatch/weight_mean": mean_over(factors, response_mask),
        "mismatch/masked_fraction": mean_over((factors == 0).to(factors.dtype), response_mask),
    }
