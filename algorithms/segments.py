"""Sums and means per sequence over packed tokens.

Results are indexed by sequence number but have T entries, of which the first N are used: there are
never more sequences than tokens, and so the number of sequences need not be read back from a device.
"""

# N sequences, T packed tokens

import torch
from torch import Tensor

# exp(20) is about 5e8: ratios beyond it carry no information, and their products stay finite.
MAX_LOG_RATIO = 20.0


def zero_outside(values: Tensor, mask: Tensor) -> Tensor:
    """`values` [T] in float32 or wider where `mask`, 0 elsewhere, gradients included.

    The choice precedes all arithmetic, so NaN and infinities outside the mask reach nothing.
    """
    wide = values.to(torch.promote_types(values.dtype, torch.float32))
    return torch.where(mask, wide, 0)


def segment_sum(values: Tensor, sequence_ids: Tensor) -> Tensor:
    """The sum of `values` [T] over each sequence, by sequence number."""
    return torch.zeros_like(values).index_add(0, sequence_ids, values)


def segment_mean(values: Tensor, mask: Tensor, sequence_ids: Tensor) -> Tensor:
    """The mean of `values` [T] over each sequence's tokens in `mask`; 0 for a sequence without any."""
    return segment_sum(zero_outside(values, mask), sequence_ids) / response_lengths(mask, sequence_ids).clamp(min=1)


def response_lengths(mask: Tensor, sequence_ids: Tensor) -> Tensor:
    """The number of each sequence's tokens in `mask`, by sequence number."""
    return segment_sum(mask.to(torch.int64), sequence_ids)


def bounded_exp(log_ratio: Tensor) -> Tensor:
    """exp, finite however large the exponent; the gradient is 0 beyond the bound."""
    return log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
