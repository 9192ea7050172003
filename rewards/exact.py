"""Equality without mathematics: the same text, or a number within a tolerance."""

from fractions import Fraction

from rewards.contract import RewardError, RewardInput, Score, Status
from rewards.markers import MARKERS, final_text, find_answer
from rewards.numbers import read_number


def score_exact(item: RewardInput, marker: str = "raw", is_case_free: bool = False) -> Score:
    """1 when the marked text is the gold text, spaces apart; `marker: raw` takes all that follows the thinking."""
    gold, answer = (item.answer or "").strip(), _marked(item, marker)
    if not gold:
        return Score(value=None, status=Status.ERROR, detail="the gold answer is empty")
    if isinstance(answer, Score):
        return answer
    left, right = (" ".join(text.casefold().split() if is_case_free else text.split()) for text in (answer, gold))
    return Score(value=float(left == right), detail=answer[:80])


def score_number(item: RewardInput, marker: str = "raw", tolerance: float = 0.0) -> Score:
    """1 when the marked text is a number within `tolerance` (a share of the gold number, 0: exact) of the gold."""
    gold, answer = read_number(item.answer or ""), _marked(item, marker)
    if gold is None:
        return Score(value=None, status=Status.ERROR, detail=f"the gold answer {item.answer!r} is no number")
    if isinstance(answer, Score):
        return answer
    value = read_number(answer)
    if value is None:
        return Score(value=0.0, status=Status.NO_ANSWER, detail="what is marked is no number")
    return Score(value=float(abs(value - gold) <= Fraction(tolerance) * abs(gold)), detail=answer[:80])


def _marked(item: RewardInput, marker: str) -> str | Score:
    if marker not in MARKERS:
        raise RewardError(f"marker={marker!r}: unknown; choose one of {', '.join(MARKERS)}")
    text = final_text(item.response, item.prompt)
    if text is None:
        return Score(value=0.0, status=Status.NO_ANSWER, detail="the thinking was never closed")
    if marker == "raw":
        return text.strip()
    found = find_answer(text, marker)
    if found.refusal or len(found.answers) > 1:
        return Score(value=0.0, status=Status.REFUSED, detail=found.refusal or "several answers")
    if not found.answers:
        return Score(value=0.0, status=Status.NO_ANSWER, detail=f"no answer in the form {marker!r}")
    return found.answers[0]
