"""The reward of the GSM8K data set: the number after the last `####`."""

import re

from rewards.contract import RewardInput, Score, Status
from rewards.markers import final_text, find_answer
from rewards.numbers import read_number

_UNITS = re.compile(r"^[$€£]\s*|\s*(?:%|\\%|[A-Za-z]+)?\.?$")


def score_gsm8k(item: RewardInput) -> Score:
    """1 when the number after the last `####` equals the gold answer's, exactly; else 0.

    A currency sign before it and one word after it are no part of the number.
    """
    gold = read_number(bare_number((item.answer or "").rpartition("####")[2]))
    if gold is None:
        return Score(value=None, status=Status.ERROR, detail=f"the gold answer {item.answer!r} holds no number")
    text = final_text(item.response, item.prompt)
    found = find_answer(text, "hashes") if text is not None else None
    if found is None or not (found.answers or found.refusal):
        return Score(value=0.0, status=Status.NO_ANSWER, detail="no `#### number` after the thinking")
    if found.refusal:
        return Score(value=0.0, status=Status.REFUSED, detail=found.refusal)
    return Score(value=float(read_number(bare_number(found.answers[0])) == gold), detail=found.answers[0])


def score_number_gold(item: RewardInput) -> Score:
    """1 when the gold answer is a number (after the last `####`, where there is one); else 0."""
    is_number = read_number(bare_number((item.answer or "").rpartition("####")[2])) is not None
    return Score(value=float(is_number), detail="" if is_number else f"{(item.answer or '')[-80:]!r} is no number")


def bare_number(text: str) -> str:
    """`text` without a currency sign before it and one word after it."""
    return _UNITS.sub("", text.strip())
