"""The countdown reward: an expression that uses the given numbers and comes to the target."""

import re
from collections import Counter

from rewards.contract import RewardError, RewardInput, Score, Status
from rewards.markers import MARKERS, final_text, find_answer
from rewards.numbers import read_number

_ALLOWED = re.compile(r"[0-9+\-*/() ]+")


def score_countdown(
    item: RewardInput, marker: str = "answer_tag", column: str = "numbers", must_use_all: bool = True
) -> Score:
    """1 when the marked expression of `+ - * / ( )` equals the gold answer and uses each given number once.

    `column` holds the numbers; with `must_use_all: false` some may be left over. `= target` at the end is allowed.
    """
    if marker not in MARKERS:
        raise RewardError(f"countdown: marker={marker!r}: unknown; choose one of {', '.join(MARKERS)}")
    target, given = read_number(item.answer or ""), item.columns.get(column)
    if target is None or not given:
        return Score(value=None, status=Status.ERROR, detail=f"needs a target as answer, and numbers in {column!r}")
    text = final_text(item.response, item.prompt)
    found = find_answer(text, marker) if text is not None else None
    if found is None or not (found.answers or found.refusal):
        return Score(value=0.0, status=Status.NO_ANSWER, detail=f"no answer in the form {marker!r}")
    if found.refusal or len(found.answers) > 1:
        return Score(value=0.0, status=Status.REFUSED, detail=found.refusal or "several answers")
    expression, equals, claimed = " ".join(found.answers).partition("=")
    if not _ALLOWED.fullmatch(expression) or (equals and read_number(claimed) != target):
        return Score(value=0.0, detail="no expression of + - * / ( ) that claims the target")
    used, available = Counter(map(int, re.findall("[0-9]+", expression))), Counter(map(int, given))
    if used - available or (must_use_all and used != available):
        return Score(value=0.0, detail="other numbers than the given ones")
    return Score(value=float(read_number(expression) == target), detail=expression.strip())
