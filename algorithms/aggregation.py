"""How token losses become one number: a weight for each token of a micro-batch."""

# N sequences, T packed tokens of one micro-batch

from dataclasses import dataclass

import torch
from torch import Tensor

from algorithms.segments import response_lengths
from configs.schema.algorithm import Aggregation


@dataclass(frozen=True, slots=True, kw_only=True)
class LossTotals:
    """Counts of a whole optimiser step, over all micro-batches and ranks.

    `max_response_tokens` is the sampling limit, the constant normaliser of seq_mean_token_sum_norm.
    """

    num_loss_tokens: int
    num_sequences: int
    max_response_tokens: int


def token_weights(aggregation: Aggregation, response_mask: Tensor, sequence_ids: Tensor, totals: LossTotals) -> Tensor:
    """Weights [T], 0 outside the mask, so that sum(weights * losses) is this cut's share of the step's loss.

    Shares add up to the exact loss of the step, however it is cut, as long as no sequence is.
    """
    inside = response_mask.to(torch.float64)
    match aggregation:
        case "token_mean":
            return inside / max(totals.num_loss_tokens, 1)
        case "seq_mean_token_mean":
            lengths = response_lengths(response_mask, sequence_ids)[sequence_ids].clamp(min=1)
            return inside / lengths / max(totals.num_sequences, 1)
        case "seq_mean_token_sum":
            return inside / max(totals.num_sequences, 1)
        case "seq_mean_token_sum_norm":
            return inside / max(totals.num_sequences, 1) / totals.max_response_tokens


def aggregate(token_values: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum, accumulated in the values' own precision."""
    return (token_values * weights.to(token_values.dtype)).sum()
