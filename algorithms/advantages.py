"""Advantages of whole sequences, from scalar rewards: what the driver computes."""

# N sequences of one batch

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias, cast

import torch
from torch import Tensor

from algorithms.algorithm import Algorithm
from algorithms.plugins import load_attribute
from algorithms.whitening import moments, whiten

_STD_EPSILON = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceRewards:
    """The rewards of a batch, each [N]; NaN where a response could not be scored.

    `groups`: any integer that the samples of one prompt share. `greedy_rewards`: the reward of the
    greedy response to the same prompt (ReMax). `moving_average`: of the rewards of earlier steps.
    `is_truncated`: cut by the length limit; read by rows that leave those out.
    """

    rewards: Tensor
    groups: Tensor
    greedy_rewards: Tensor | None = None
    moving_average: float = 0.0
    is_truncated: Tensor | None = None


Estimator: TypeAlias = Callable[[SequenceRewards], Tensor]


def sequence_advantages(algorithm: Algorithm, batch: SequenceRewards) -> Tensor:
    """One advantage a sequence [N], whitened and clipped as the row says.

    NaN means that the sample can't be learnt from, and is to be dropped: it was not scored, too few of
    its group were to compare it with, or it was cut and the row leaves those out (having counted them in
    the baseline). Whitening is over the sequences that stay.
    """
    advantages = find_estimator(algorithm.advantage)(batch)
    if advantages.shape != batch.rewards.shape:
        raise ValueError(
            f"algorithm.advantage={algorithm.advantage!r}: gave advantages of shape {tuple(advantages.shape)} "
            f"for rewards of shape {tuple(batch.rewards.shape)}; give one advantage for each reward"
        )
    if algorithm.mask_truncated:
        if batch.is_truncated is None:
            raise ValueError("algorithm.mask_truncated needs to know which responses were cut (is_truncated)")
        advantages = torch.where(batch.is_truncated, torch.nan, advantages)
    if algorithm.whiten:
        is_kept = ~advantages.isnan()
        whitened = whiten(advantages, is_kept, moments(advantages, is_kept))
        advantages = torch.where(is_kept, whitened, torch.nan)
    return clip_advantages(advantages, algorithm.advantage_clip)


def clip_advantages(advantages: Tensor, limit: float) -> Tensor:
    """Advantages within plus or minus `limit`; unchanged when it is 0. NaN stays."""
    return advantages.clamp(-limit, limit) if limit else advantages


def grpo(batch: SequenceRewards) -> Tensor:
    """Reward minus the group's mean, over its standard deviation (ddof 1). arXiv:2402.03300, eq. 3.

    A group of equal rewards has advantage 0.
    """
    stats = _GroupStats.of(batch)
    return stats.centred / (stats.deviation + _STD_EPSILON)


def dr_grpo(batch: SequenceRewards) -> Tensor:
    """Reward minus the group's mean. arXiv:2503.20783."""
    return _GroupStats.of(batch).centred


def rloo(batch: SequenceRewards) -> Tensor:
    """Reward minus the mean of the group's other rewards. arXiv:2402.14740."""
    stats = _GroupStats.of(batch)
    return stats.centred * stats.size / (stats.size - 1)


def remax(batch: SequenceRewards) -> Tensor:
    """Reward minus the reward of the greedy response. arXiv:2310.10505."""
    if batch.greedy_rewards is None:
        raise ValueError("algorithm.advantage='remax' needs the reward of a greedy response for each prompt")
    return batch.rewards - batch.greedy_rewards


def reinforce(batch: SequenceRewards) -> Tensor:
    """Reward minus the moving average of earlier rewards. Williams 1992."""
    return batch.rewards - batch.moving_average


def next_moving_average(average: float | None, rewards: Tensor, decay: float) -> float:
    """The moving average after a step with `rewards` (NaN left out); the first step's mean starts it.

    A step without any scored reward leaves it; 0 before there was one, and always when decay is 0.
    """
    scored = rewards[~rewards.isnan()]
    if decay == 0 or not len(scored):
        return average or 0.0
    mean = float(scored.mean())
    return mean if average is None else decay * average + (1 - decay) * mean


_ESTIMATORS: Mapping[str, Estimator] = {
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "rloo": rloo,
    "reinforce_pp_baseline": dr_grpo,  # the row whitens it
    "remax": remax,
    "reinforce": reinforce,
}


def find_estimator(name: str) -> Estimator:
    """The sequence-level estimator called `name`, ours or a user's ("file.py:function")."""
    if name in _ESTIMATORS:
        return _ESTIMATORS[name]
    function = load_attribute("algorithm.advantage", name)
    if not callable(function):
        raise ValueError(f"algorithm.advantage={name!r}: not a function of SequenceRewards")
    return cast(Estimator, function)


@dataclass(frozen=True, slots=True, kw_only=True)
class _GroupStats:
    """Of each sample's group, over its scored members, each [N]; NaN where fewer than two were scored."""

    centred: Tensor  # reward minus the group's mean, exactly 0 where all are equal
    deviation: Tensor  # ddof 1
    size: Tensor

    @classmethod
    def of(cls, batch: SequenceRewards) -> "_GroupStats":
        """Statistics in float64."""
        rewards = batch.rewards.double()
        is_scored = ~rewards.isnan()
        group = torch.unique(batch.groups, return_inverse=True)[1]
        size = _per_group(is_scored.double(), group, "sum")
        mean = _per_group(torch.where(is_scored, rewards, 0), group, "sum") / size
        highest = _per_group(torch.where(is_scored, rewards, -torch.inf), group, "amax")
        lowest = _per_group(torch.where(is_scored, rewards, torch.inf), group, "amin")
        # The mean of equal numbers can differ from them by rounding, which a deviation near 0 would blow up.
        centred = torch.where(highest == lowest, 0, rewards - mean)
        centred = torch.where(is_scored & (size > 1), centred, torch.nan)
        squares = _per_group(torch.where(is_scored, centred.square(), 0), group, "sum")
        return cls(centred=centred, deviation=(squares / (size - 1)).sqrt(), size=size)


def _per_group(values: Tensor, group: Tensor, reduction: str) -> Tensor:
    """`values` reduced over each group, given back to every member [N]."""
    reduced = torch.zeros_like(values).scatter_reduce(0, group, values, reduction, include_self=False)
    return reduced[group]
