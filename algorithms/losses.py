"""Policy losses of single tokens."""

# T packed tokens of one micro-batch

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias, cast

import torch
from torch import Tensor

from algorithms.algorithm import Algorithm
from algorithms.plugins import load_attribute
from algorithms.segments import bounded_exp, segment_mean
from configs.schema.algorithm import RatioLevel


@dataclass(frozen=True, slots=True, kw_only=True)
class LossTerms:
    """What a policy loss is made of; each [T], finite, and 0 outside `response_mask` (`ratio`: 1).

    `logprobs` and `ratio` carry the gradient. `ratio` is at the row's level: the token's, or its
    sequence's (with the gradient of the token's log-prob).
    """

    logprobs: Tensor
    ratio: Tensor
    advantages: Tensor
    response_mask: Tensor
    sequence_ids: Tensor


TokenLoss: TypeAlias = Callable[[LossTerms, Algorithm], Tensor]


def clip(terms: LossTerms, algorithm: Algorithm) -> Tensor:
    """max(-A rho, -A clip(rho)); where A < 0 at most -A dual_clip. PPO, and arXiv:1912.09729 for the dual clip."""
    low, high = clip_range(algorithm)
    clipped = terms.ratio.clamp(low, high)
    loss = torch.maximum(-terms.advantages * terms.ratio, -terms.advantages * clipped)
    if not algorithm.dual_clip:
        return loss
    ceiling = -terms.advantages * algorithm.dual_clip
    return torch.where(terms.advantages < 0, torch.minimum(loss, ceiling), loss)


def cispo(terms: LossTerms, algorithm: Algorithm) -> Tensor:
    """-sg[clip(rho)] A l: the clip bounds a token's weight, and silences none. MiniMax-M1, arXiv:2506.13585."""
    low, high = clip_range(algorithm)
    return -terms.ratio.detach().clamp(low, high) * terms.advantages * terms.logprobs


def reinforce(terms: LossTerms, algorithm: Algorithm) -> Tensor:
    """-A l. Williams 1992."""
    return -terms.advantages * terms.logprobs


_LOSSES: Mapping[str, TokenLoss] = {"clip": clip, "cispo": cispo, "reinforce": reinforce}


def find_loss(name: str) -> TokenLoss:
    """The loss called `name`, ours or a user's ("file.py:function")."""
    if name in _LOSSES:
        return _LOSSES[name]
    function = load_attribute("algorithm.loss", name)
    if not callable(function):
        raise ValueError(f"algorithm.loss={name!r}: not a function of (LossTerms, Algorithm)")
    return cast(TokenLoss, function)


def clip_range(algorithm: Algorithm) -> tuple[float, float]:
    """The ratios between which the loss does not clip."""
    assert algorithm.clip_low is not None and algorithm.clip_high is not None, "the row was checked"
    return 1 - algorithm.clip_low, 1 + algorithm.clip_high


def importance_ratio(
    level: RatioLevel, log_ratio: Tensor, logprobs: Tensor, response_mask: Tensor, sequence_ids: Tensor
) -> Tensor:
    """rho = exp(l - lo) of each token; or of its sequence, s_t = sg[s] exp(l_t - sg[l_t]) with s the
    exponential of the mean l - lo. GSPO, arXiv:2507.18071, eq. 14.
    """
    if level == "token":
        return bounded_exp(log_ratio)
    mean = segment_mean(log_ratio.detach(), response_mask, sequence_ids)[sequence_ids]
    return bounded_exp(mean) * (logprobs - logprobs.detach()).exp()
