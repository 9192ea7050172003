"""Whitening over a whole batch that is spread over ranks: moments, their sum over ranks, and the scaling."""

import torch
from torch import Tensor

_EPSILON = 1e-8


def moments(values: Tensor, mask: Tensor) -> Tensor:
    """Count, sum and sum of squares of `values` where `mask`: [3] float64, to be summed over ranks."""
    kept = torch.where(mask, values.detach().double(), 0)
    return torch.stack([mask.sum(dtype=torch.float64), kept.sum(), kept.square().sum()])


def mean_and_variance(summed: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population variance from summed moments; 0 and 0 of nothing."""
    count, total, squares = summed.unbind()
    mean = total / count.clamp(min=1)
    return mean, (squares / count.clamp(min=1) - mean.square()).clamp(min=0)


def whiten(values: Tensor, mask: Tensor, summed: Tensor) -> Tensor:
    """Values with mean 0 and deviation 1 by the moments `summed` over all ranks; 0 outside the mask.

    Values that are all equal become 0.
    """
    mean, variance = mean_and_variance(summed)
    # Below this the variance is the rounding error of equal values, not a spread.
    is_spread = variance > 1e-12 * mean.square()
    scale = torch.where(is_spread, 1 / (variance + _EPSILON).sqrt(), 0)
    whitened = (values.double() - mean) * scale
    return torch.where(mask, whitened, 0).to(values.dtype)
