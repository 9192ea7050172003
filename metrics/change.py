"""How a mean over prompts stands, or moved between two measurements of the same prompts: with a 95 % interval."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metrics.bootstrap import percentiles, resampled_means

# P prompts


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean and the ends of its 95 % interval: percentiles of the bootstrap over prompts. All NaN for no prompt."""

    mean: float
    low: float
    high: float

    @property
    def is_above_zero(self) -> bool:
        """Beyond noise: the whole interval is above 0."""
        return self.low > 0

    @property
    def is_below_zero(self) -> bool:
        """Beyond noise: the whole interval is below 0."""
        return self.high < 0


def mean_interval(values: Sequence[float] | NDArray[np.float64]) -> Interval:
    """Of one number a prompt, [P]; a prompt without one (NaN) is left out. The same for the same values."""
    known = np.asarray(values, dtype=np.float64)
    known = known[~np.isnan(known)]
    if not len(known):
        return Interval(mean=np.nan, low=np.nan, high=np.nan)
    (low,), (high,) = percentiles(resampled_means(known[:, None]))
    return Interval(mean=float(known.mean()), low=float(low), high=float(high))


def change(now: Sequence[float] | NDArray[np.float64], before: Sequence[float] | NDArray[np.float64]) -> Interval:
    """The mean of `now` less that of `before`, [P] each, paired: over the prompts that have both.

    ValueError where they are not of the same number of prompts.
    """
    if len(now) != len(before):
        raise ValueError(f"{len(now)} prompts now and {len(before)} before: only the same ones make pairs")
    return mean_interval(np.asarray(now, dtype=np.float64) - np.asarray(before, dtype=np.float64))
