"""What happens to rewards and groups before advantages: length penalty, and which groups can teach."""

from collections.abc import Sequence

import torch
from torch import Tensor


def overlong_penalty(num_response_tokens: Tensor, max_response_tokens: int, overlong_share: float) -> Tensor:
    """The penalty (0 to -1) added to the reward of long responses. DAPO, arXiv:2503.14476, eq. 13.

    0 up to the last `overlong_share` of the limit, from there linear to -1 at the limit, -1 beyond.
    """
    lengths = num_response_tokens.double()
    if overlong_share == 0:
        return torch.zeros_like(lengths)
    buffer = overlong_share * max_response_tokens
    return ((max_response_tokens - buffer - lengths) / buffer).clamp(-1, 0)


def can_teach(rewards: Sequence[float | None]) -> bool:
    """Whether a group has two scored samples with different rewards; dynamic sampling drops it if not."""
    scored = [reward for reward in rewards if reward is not None]
    return len(scored) > 1 and min(scored) < max(scored)
