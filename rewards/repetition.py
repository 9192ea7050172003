"""The repetition penalty: the share of word sequences that were said before."""

from rewards.contract import RewardError, RewardInput

_MOST_WORDS = 20_000


def score_repetition(item: RewardInput, size: int = 3) -> float:
    """Minus the share of runs of `size` words that repeat an earlier one: 0 for none, towards -1 for a loop.

    Text without spaces (Chinese, one endless word) counts by character.
    """
    if not 1 <= size <= 50:
        raise RewardError(f"repetition: size={size}: expected 1 to 50 words")
    return -repeated_share(item.response, size) or 0.0


def repeated_share(text: str, size: int = 3) -> float:
    """The share of a text's runs of `size` words (n-grams) that repeat an earlier one, 0 to 1; 0 without any run."""
    words = text.lower().split()
    units = words if len(text) < 20 * max(len(words), 1) else list(text)
    units = units[-_MOST_WORDS:]
    runs = [tuple(units[at : at + size]) for at in range(len(units) - size + 1)]
    return 1.0 - len(set(runs)) / len(runs) if runs else 0.0
