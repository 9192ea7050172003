"""The bootstrap over prompts: intervals of means, for many numbers of the same prompts at once."""

import numpy as np
from numpy.typing import NDArray

# P prompts, M numbers of each, R resamples

NUM_RESAMPLES = 2000
_PICKS_AT_ONCE = 4_000_000


def resampled_means(
    values: NDArray[np.float64], *, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> NDArray[np.float64]:
    """[R, M]: the mean of every number over the prompts of every resample (Efron 1979), the same for the same seed.

    `values`: [P, M], NaN where a prompt lacks a number: it counts in the other means alone. All M numbers see the
    same resamples. A mean over no prompt is NaN. ValueError for no prompts, or for infinite values.
    """
    if values.ndim != 2 or not len(values) or np.isinf(values).any():
        raise ValueError(f"want [P, M] values of at least one prompt, none infinite; got {values.shape}")
    generator = np.random.default_rng(seed)
    has_value = np.isfinite(values)
    filled, present = np.where(has_value, values, 0.0), has_value.astype(np.float64)
    rows_at_once = max(1, _PICKS_AT_ONCE // len(values))
    means = np.empty((num_resamples, values.shape[1]))
    for start in range(0, num_resamples, rows_at_once):
        counts = _counts(generator, min(rows_at_once, num_resamples - start), len(values))
        with np.errstate(invalid="ignore"):
            means[start : start + len(counts)] = (counts @ filled) / (counts @ present)
    return means


def percentiles(means: NDArray[np.float64], confidence: float = 0.95) -> NDArray[np.float64]:
    """[2, M]: lower and upper ends of the percentile intervals (Efron & Tibshirani 1993, section 13.3).

    `means`: [R, M] of `resampled_means`. NaN where all of a number's means are.
    """
    ends = np.full((2, means.shape[1]), np.nan)
    known = ~np.isnan(means).all(axis=0)
    ends[:, known] = np.nanquantile(means[:, known], [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return ends


def _counts(generator: np.random.Generator, num_resamples: int, num_prompts: int) -> NDArray[np.float64]:
    """[R, P]: how often each resample holds each prompt; its rows sum to P."""
    picks = generator.integers(num_prompts, size=(num_resamples, num_prompts))
    places = picks + num_prompts * np.arange(num_resamples)[:, None]
    counts = np.bincount(places.ravel(), minlength=num_resamples * num_prompts)
    return counts.reshape(num_resamples, num_prompts).astype(np.float64)
