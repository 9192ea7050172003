"""What a scorer's pick among sampled responses is worth, unbiased: best-of-k from n samples."""

from collections.abc import Sequence
from itertools import pairwise
from math import comb

import numpy as np
from numpy.typing import NDArray


def best_of_k(scores: Sequence[float] | NDArray[np.float64], values: Sequence[float] | NDArray, k: int) -> float:
    """Mean value of the response with the highest score among k of the n.

    The exact mean over all subsets of k: where a samples have a score and b a lower one, C(a + b, k) - C(b, k)
    of the C(n, k) subsets pick that score. Responses of equal score are picked equally often.
    `scores`, `values`: [n] each. ValueError unless 1 <= k <= n and all scores are numbers.
    """
    ranks, worth = np.asarray(scores, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if not 1 <= k <= len(ranks) or ranks.shape != worth.shape or np.isnan(ranks).any():
        raise ValueError(f"best-of-{k} needs 1 <= k <= scores, none of them NaN; got {len(ranks)} for {len(worth)}")
    levels, level_of = np.unique(-ranks, return_inverse=True)  # the highest score first
    sizes = np.bincount(level_of, minlength=len(levels))
    means = np.bincount(level_of, weights=worth, minlength=len(levels)) / sizes
    num_left = len(ranks) - np.concatenate([[0], np.cumsum(sizes)])  # of this level and lower ones
    chances = [(comb(int(here), k) - comb(int(below), k)) / comb(len(ranks), k) for here, below in pairwise(num_left)]
    return float(means @ np.array(chances))
