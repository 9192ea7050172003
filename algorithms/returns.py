"""Token rewards, discounted returns and generalised advantages: what each rank computes on its sequences."""

# N sequences, T packed tokens, R response tokens among them

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from algorithms.algorithm import Algorithm
from algorithms.kl import kl_estimate
from algorithms.segments import zero_outside


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardInputs:
    """What token rewards are made of. `rewards` is [N], all else [T] with each sequence in one piece.

    Samples without a finite reward are dropped before. `values[t]` is the critic's prediction before
    token t. Log-probs are needed for a KL term only, values for `gae` only.
    """

    rewards: Tensor
    response_mask: Tensor  # bool
    sequence_ids: Tensor  # int64, 0..N-1
    old_logprobs: Tensor | None = None
    ref_logprobs: Tensor | None = None
    values: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenAdvantages:
    """Advantages before whitening, and the returns that a critic learns; [T], 0 outside the mask."""

    advantages: Tensor
    returns: Tensor


def token_advantages(algorithm: Algorithm, inputs: RewardInputs) -> TokenAdvantages:
    """Advantages of every response token, from the token rewards.

    A row that whitens wants this after it, over all ranks:
    `whiten(advantages, mask, all_reduced(moments(advantages, mask)))`; then `clip_advantages`.
    """
    mask, ids = inputs.response_mask, inputs.sequence_ids
    rewards = token_rewards(inputs.rewards, mask, ids)
    if algorithm.has_kl_in_reward:
        if inputs.old_logprobs is None or inputs.ref_logprobs is None:
            raise ValueError(f"algorithm {algorithm.name!r} has a KL term in its rewards and needs both log-probs")
        old, ref = zero_outside(inputs.old_logprobs, mask), zero_outside(inputs.ref_logprobs, mask)
        rewards = rewards - algorithm.kl_coef * kl_estimate(algorithm.kl_estimator, old, ref)
    if not algorithm.needs_critic:
        returns = discounted_returns(rewards, mask, ids, algorithm.gamma)
        return TokenAdvantages(advantages=returns, returns=returns)
    if inputs.values is None:
        raise ValueError(f"algorithm {algorithm.name!r} needs the critic's values")
    return gae(rewards, inputs.values, mask, ids, gamma=algorithm.gamma, decay=algorithm.gae_lambda)


def token_rewards(rewards: Tensor, response_mask: Tensor, sequence_ids: Tensor) -> Tensor:
    """Each sequence's reward [N] on its last response token, 0 on all others [T]; nowhere if it has none."""
    (places,) = response_mask.nonzero(as_tuple=True)
    is_last = torch.ones_like(places, dtype=torch.bool)
    is_last[:-1] = sequence_ids[places[:-1]] != sequence_ids[places[1:]]
    ends = places[is_last]
    spread = torch.zeros(len(response_mask), dtype=rewards.dtype, device=rewards.device)
    spread[ends] = rewards[sequence_ids[ends]]
    return spread


def discounted_returns(rewards: Tensor, response_mask: Tensor, sequence_ids: Tensor, gamma: float) -> Tensor:
    """G_t = r_t + gamma G_{t+1} over the response tokens of each sequence [T], 0 outside the mask."""
    sums = partial(_discounted_sums, decay=gamma)
    return _over_responses(sums, rewards, response_mask, sequence_ids)


def gae(
    rewards: Tensor, values: Tensor, response_mask: Tensor, sequence_ids: Tensor, *, gamma: float, decay: float
) -> TokenAdvantages:
    """A_t = delta_t + gamma decay A_{t+1}, delta_t = r_t + gamma V_{t+1} - V_t; returns A + V.

    The value after the last response token is 0. Schulman, arXiv:1506.02438, eq. 16.
    """
    values = zero_outside(values.detach(), response_mask)
    next_values = _over_responses(_following, values, response_mask, sequence_ids)
    errors = rewards + gamma * next_values - values
    sums = partial(_discounted_sums, decay=gamma * decay)
    advantages = _over_responses(sums, errors, response_mask, sequence_ids)
    return TokenAdvantages(advantages=advantages, returns=advantages + values)


def _over_responses(
    function: Callable[[Tensor, Tensor], Tensor], values: Tensor, response_mask: Tensor, sequence_ids: Tensor
) -> Tensor:
    """`function` of the response tokens alone [R], put back in place [T].

    `function` also gets for each of them whether the next one is of the same sequence: tokens between
    two turns take part in nothing, so the neighbours are those that the policy sampled.
    """
    (places,) = response_mask.nonzero(as_tuple=True)
    ids = sequence_ids[places]
    continues = torch.zeros_like(ids, dtype=torch.bool)
    continues[:-1] = ids[:-1] == ids[1:]
    spread = torch.zeros_like(values)
    spread[places] = function(values[places], continues)
    return spread


def _following(values: Tensor, continues: Tensor) -> Tensor:
    """The next token's value [R], 0 at the end of a sequence."""
    following = torch.zeros_like(values)
    following[:-1] = values[1:]
    return torch.where(continues, following, 0)


def _discounted_sums(values: Tensor, continues: Tensor, decay: float) -> Tensor:
    """x_t = v_t + decay x_{t+1} within each sequence [R].

    By doubling: after k rounds each sum covers 2^k tokens, so R tokens take log2(R) rounds of tensor
    operations in place of R of them.
    """
    sums, factors = values.clone(), decay * continues.to(values.dtype)
    span = 1
    while span < len(values):
        sums[:-span] = sums[:-span] + factors[:-span] * sums[span:]
        factors[:-span] = factors[:-span] * factors[span:]
        span *= 2
    return sums
