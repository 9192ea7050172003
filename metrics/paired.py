"""Two models that answered the same prompts: McNemar's exact test, and how often one's response is the better one."""

import numpy as np
from numpy.typing import NDArray

# P prompts, N and M responses to each


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided p-value of the exact test (McNemar 1947; for classifiers: Dietterich 1998, section 3.1).

    `only_first`, `only_second`: prompts that only one of the two answers right. Were the models equally good, each of
    them would go either way with probability 1/2: min(1, 2 P(X <= the smaller)), X binomial. 1 for no such prompts.
    """
    if only_first < 0 or only_second < 0:
        raise ValueError(f"{only_first} and {only_second} are no counts of prompts")
    total = only_first + only_second
    ways = tail = 1
    for count in range(min(only_first, only_second)):
        ways = ways * (total - count) // (count + 1)
        tail += ways
    return min(1.0, 2 * tail / 2**total)


def win_rates(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """[P]: of all N x M pairs of responses to a prompt, the share in which the first model's has the higher reward.

    Ties count half. `first`: [P, N] rewards, `second`: [P, M]. NaN for a prompt with a response that has no reward.
    ValueError for other prompts.
    """
    if len(first) != len(second):
        raise ValueError(f"rewards of {len(first)} and of {len(second)} prompts: want the same prompts")
    signs = np.sign(first[:, :, None] - second[:, None, :])
    return (0.5 + 0.5 * signs).mean(axis=(1, 2))
