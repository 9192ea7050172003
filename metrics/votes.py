"""Accuracy of a vote among sampled answers, unbiased: maj@k from n samples."""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from math import comb, exp, log

import numpy as np
from numpy.typing import NDArray


def majority_at_k(classes: Sequence[int | None], is_right: Sequence[bool], k: int) -> float:
    """Probability that the answer most frequent among k of the n samples is right; arXiv:2203.11171 for the vote.

    The exact mean over all subsets of k samples, each class of a tie winning equally often. `classes`: the class of
    each sample's answer, None for a sample without one, which has no vote; a subset without votes is wrong.
    Where verdicts within the winning class differ, one of its samples is drawn. ValueError unless 1 <= k <= n.
    """
    if not 1 <= k <= len(classes) or len(classes) != len(is_right):
        raise ValueError(f"maj@{k} needs 1 <= k <= samples and a verdict for each; got {len(classes)}, {len(is_right)}")
    sizes = Counter(found for found in classes if found is not None)
    num_right = Counter(found for found, right in zip(classes, is_right, strict=True) if right and found is not None)
    num_silent = len(classes) - sizes.total()
    total = 0.0
    for found, right in num_right.items():
        others = tuple(sorted(size for other, size in sizes.items() if other != found))
        total += right / sizes[found] * _win_probability(sizes[found], others, num_silent, k)
    return min(total, 1.0)  # rounding may leave it 1e-16 above


@lru_cache(maxsize=65_536)
def _win_probability(size: int, others: tuple[int, ...], num_silent: int, k: int) -> float:
    """Of a class of `size` samples among classes of the sizes `others`, when k of all samples are drawn.

    The numbers drawn of each class are independent binomials, given that they sum to k; so products of their
    probabilities are summed, over the number of votes that win and the number of classes that are level with it.
    """
    num_samples = size + sum(others) + num_silent
    rate = k / (num_samples + 1)  # of each binomial: any gives the same result, this one no tiny numbers
    own, silent = _binomial(size, rate), _binomial(num_silent, rate)
    total = 0.0
    for votes in range(1, min(size, k) + 1):
        rest = k - votes
        drawn = np.zeros((rest + 1, rest // votes + 1))  # by samples drawn so far and classes that are level
        drawn[: len(silent), 0] = silent[: rest + 1]
        for other in others:
            drawn = _with_class(drawn, _binomial(other, rate), votes)
        total += own[votes] * float((drawn[rest] / np.arange(1, drawn.shape[1] + 1)).sum())
    return total / float(_binomial(num_samples, rate)[k])


def _with_class(drawn: NDArray[np.float64], chances: NDArray[np.float64], votes: int) -> NDArray[np.float64]:
    """The same with one more class, of which at most `votes` samples are drawn."""
    total = np.zeros_like(drawn)
    for count in range(min(votes, len(chances), len(drawn))):
        total[count:] += chances[count] * drawn[: len(drawn) - count]
    if votes < min(len(chances), len(drawn)):
        total[votes:, 1:] += chances[votes] * drawn[:-votes, :-1]
    return total


@lru_cache(maxsize=4096)
def _binomial(num_samples: int, rate: float) -> NDArray[np.float64]:
    """[num_samples + 1]: probability of each count; `rate` is above 0 and below 1."""
    counts = range(num_samples + 1)
    # Through logarithms: of long integers they are exact where a float would overflow.
    return np.array(
        [exp(log(comb(num_samples, x)) + x * log(rate) + (num_samples - x) * log(1 - rate)) for x in counts]
    )
