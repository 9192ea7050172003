"""Whether two answers are one: what a vote counts together."""

from rewards.contract import RewardInput, Score
from rewards.equality import Policies, UnreadableGold, are_equal, warm_up

__all__ = ["score_same_answer", "warm_up"]


def score_same_answer(item: RewardInput, is_whole: bool = True) -> Score:
    """1 when the response and the gold, each a bare answer, are equal as mathematics, whichever is taken for the gold.

    `is_whole`: they are formulas or numbers; False: texts that end on one.
    """
    pairs = ((item.response, item.answer or ""), (item.answer or "", item.response))
    return Score(value=float(any(_are_equal(*pair, is_whole) for pair in pairs)))


def _are_equal(answer: str, gold: str, is_whole: bool) -> bool:
    try:
        return are_equal(answer, gold, Policies(), is_whole)
    except UnreadableGold:
        return False
