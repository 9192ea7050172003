"""The critic's objective: clipped value loss, and how much of the returns it explains."""

# T packed tokens of one micro-batch

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from algorithms.aggregation import LossTotals, aggregate, token_weights
from algorithms.algorithm import Algorithm
from algorithms.measures import MetricSum, mean_over
from algorithms.objective import LossOutput
from algorithms.segments import zero_outside


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueInputs:
    """Token columns of a micro-batch, each [T]; outside `response_mask` they may hold anything.

    `values` carries the gradient. `old_values`, from before the first update, is None when there is a
    single update.
    """

    values: Tensor
    returns: Tensor
    response_mask: Tensor  # bool
    sequence_ids: Tensor  # int64, 0..N-1
    old_values: Tensor | None = None


def value_loss(algorithm: Algorithm, inputs: ValueInputs, totals: LossTotals) -> LossOutput:
    """This micro-batch's share of mean 1/2 max((V - G)^2, (clip(V, V_old +- eps) - G)^2).

    Aggregated like the policy's loss; without the clipped term where the row has value_clip 0.
    """
    mask = inputs.response_mask
    values, returns = zero_outside(inputs.values, mask), zero_outside(inputs.returns, mask).detach()
    errors = (values - returns).square()
    clipped_fraction = torch.zeros_like(returns)
    if algorithm.value_clip:
        old = values if inputs.old_values is None else zero_outside(inputs.old_values, mask)
        old = old.detach()
        clipped = values.clamp(old - algorithm.value_clip, old + algorithm.value_clip)
        clipped_fraction = (clipped != values).to(returns.dtype)
        errors = torch.maximum(errors, (clipped - returns).square())
    weights = token_weights(algorithm.aggregation, mask, inputs.sequence_ids, totals)
    loss = aggregate(errors / 2, weights)
    residuals = (returns - values.detach()).double()
    return LossOutput(
        loss=loss,
        metrics={
            "value/loss": MetricSum(total=loss.detach()),
            "value/clip_fraction": mean_over(clipped_fraction, mask),
            "value/return_mean": mean_over(returns, mask),
            "raw/return_square_mean": mean_over(returns.double().square(), mask),
            "raw/residual_mean": mean_over(residuals, mask),
            "raw/residual_square_mean": mean_over(residuals.square(), mask),
        },
    )


def explained_variance(metrics: Mapping[str, float]) -> float:
    """1 - Var(G - V) / Var(G) from the reduced metrics of `value_loss`; NaN where all returns are equal."""
    returns = metrics["raw/return_square_mean"] - metrics["value/return_mean"] ** 2
    residuals = metrics["raw/residual_square_mean"] - metrics["raw/residual_mean"] ** 2
    return 1 - residuals / returns if returns > 0 else float("nan")
