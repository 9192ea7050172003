"""Length as a reward: bounds in tokens, and the soft punishment of overlong responses."""

from rewards.contract import RewardError, RewardInput


def score_length(item: RewardInput, min_tokens: int = 0, max_tokens: int | None = None) -> float:
    """0 within the bounds; below or above, minus the share by which they are missed, down to -1."""
    if min_tokens < 0 or (max_tokens is not None and max_tokens < max(min_tokens, 1)):
        raise RewardError(
            f"length: min_tokens={min_tokens}, max_tokens={max_tokens}: need 0 <= min_tokens <= max_tokens"
        )
    tokens = item.num_response_tokens
    if tokens < min_tokens:
        return (tokens - min_tokens) / min_tokens
    if max_tokens is not None and tokens > max_tokens:
        return max(-1.0, (max_tokens - tokens) / max_tokens)
    return 0.0


def score_overlong(item: RewardInput, max_tokens: int, buffer_tokens: int) -> float:
    """0 up to `max_tokens - buffer_tokens`, falling to -1 at `max_tokens`, and -1 for what was cut.

    Soft overlong punishment, equation 13 of DAPO, arXiv:2503.14476.
    """
    if not 0 < buffer_tokens <= max_tokens:
        raise RewardError(f"overlong: need 0 < buffer_tokens={buffer_tokens} <= max_tokens={max_tokens}")
    if item.finish_reason == "length":
        return -1.0
    excess = item.num_response_tokens - (max_tokens - buffer_tokens)
    return -min(max(excess / buffer_tokens, 0.0), 1.0)
