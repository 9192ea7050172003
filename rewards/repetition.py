"""The repetition penalty: the share of word sequences that were said before."""

from rewards.contract import RewardError, RewardInput

_MOST_WORDS = 20_000


def score_repetition(item: RewardInput, size: int = 3) -> float:
    """Minus the share of runs of `size` words that repeat an earlier one: 0 for none, towards -1 for a loop.

    Text without spaces (Chinese, one endless word) counts by character.
    """
    if not 1 <= size <= 50:
        raise RewardError(f"repetition: size={size}: expected 1 to 50 words")
    words = item.response.lower().split()
    units = words if len(item.response) < 20 * max(len(words), 1) else list(item.response)
    units = units[-_MOST_WORDS:]
    runs = [tuple(units[at : at + size]) for at in range(len(units) - size + 1)]
    return len(set(runs)) / len(runs) - 1.0 if runs else 0.0
