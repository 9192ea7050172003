"""How sure a measured share or mean is: intervals, and pass@k. The bootstrap has a file of its own."""

from collections.abc import Sequence
from math import comb, nan, sqrt
from statistics import NormalDist

import numpy as np


def wilson(num_successes: int, num_trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927): never outside 0..1, sound for small counts.

    ValueError unless 0 <= num_successes <= num_trials and num_trials >= 1.
    """
    if not 0 <= num_successes <= num_trials or num_trials < 1:
        raise ValueError(f"{num_successes} successes in {num_trials} trials is no proportion")
    low, high = _score_interval(num_successes / num_trials, num_trials, confidence)
    # At 0 and at all successes the ends are exact; rounding would leave them off by 1e-17.
    return 0.0 if num_successes == 0 else low, 1.0 if num_successes == num_trials else high


def clustered_wilson(moments: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a share whose trials come in clusters that depend on each other, such as the pairs of a prompt.

    `moments`: sums over clusters of w, n, w*w, w*n, n*n and 1, with w successes in n trials. Wilson's interval
    for as many trials as would make the variance of the ratio of sums (Cochran 1977, section 6.3), and no more
    than there are; one a cluster where the clusters show no variance. NaN for no trials.
    """
    successes, trials, square, cross, trials_square, num_clusters = moments
    if not trials:
        return nan, nan
    share = successes / trials
    residual = square - 2 * share * cross + share**2 * trials_square
    variance = residual * num_clusters / max(num_clusters - 1, 1) / trials**2
    # Rounding leaves about 1e-16 of a variance that is none.
    effective = num_clusters if variance < 1e-12 else min(share * (1 - share) / variance, trials)
    low, high = _score_interval(share, max(effective, 1.0), confidence)
    return max(low, 0.0), min(high, 1.0)


def _score_interval(share: float, num_trials: float, confidence: float) -> tuple[float, float]:
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    scale = 1 + z**2 / num_trials
    centre = (share + z**2 / (2 * num_trials)) / scale
    half = z / scale * sqrt(share * (1 - share) / num_trials + z**2 / (4 * num_trials**2))
    return centre - half, centre + half


def clustered_mean(values: Sequence[float], clusters: Sequence[int], confidence: float = 0.95) -> tuple[float, float]:
    """Normal interval of a mean whose values come in clusters that depend on each other, such as a prompt's samples.

    The variance of the ratio of sums (Cochran 1977, section 6.3). `clusters`: the cluster of each value. NaN for
    fewer than two clusters, which show no variance.
    """
    data, places = np.asarray(values, dtype=np.float64), np.unique(np.asarray(clusters), return_inverse=True)[1]
    num_clusters = int(places.max(initial=-1)) + 1
    if num_clusters < 2:
        return nan, nan
    mean = float(data.mean())
    residuals = np.bincount(places, weights=data - mean)
    variance = float((residuals**2).sum()) * num_clusters / (num_clusters - 1) / len(data) ** 2
    half = NormalDist().inv_cdf((1 + confidence) / 2) * sqrt(variance)
    return mean - half, mean + half


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Probability that at least one of k samples is right, unbiased: 1 - C(n - c, k) / C(n, k).

    arXiv:2107.03374, equation 1. ValueError unless 0 <= c <= n and 1 <= k <= n.
    """
    if not 0 <= num_correct <= num_samples or not 1 <= k <= num_samples:
        raise ValueError(
            f"pass@{k} needs 0 <= correct <= samples and 1 <= k <= samples; got {num_correct} of {num_samples}"
        )
    return 1.0 - comb(num_samples - num_correct, k) / comb(num_samples, k)
