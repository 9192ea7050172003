"""The mathematics reward: find the marked answer, and compare it with the gold answer."""

import logging
import re

from rewards.contract import RewardError, RewardInput, Score, Status
from rewards.equality import Policies, UnreadableGold, are_equal
from rewards.markers import MARKERS, boxes_in, final_text, find_answer

_SEPARATOR = re.compile(r"[,;]|\\text\s*\{[^{}]*\b(?:and|or)\b[^{}]*\}|\b(?:and|or)\b")
_THOUSANDS = re.compile(r"(?<=[0-9])(?:,|\{,\}|,\\!\s?|,\s\\!)(?=[0-9])")
_SEVERAL = re.compile(r"[,;&]|\\pm|\\cup|\band\b|\bor\b|\\text\s*\{[^{}]*\b(?:and|or)\b")

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns once that its time-outs are off, as they must be


def score_math(
    item: RewardInput,
    marker: str = "boxed",
    is_list_order_free: bool = True,
    min_rounded_decimals: int = 4,
) -> Score:
    r"""1 or 0; NO_ANSWER without a marked answer after the thinking, REFUSED for one that hedges or hides.

    `marker`: `boxed` (`\boxed{x}`), `hashes` (`#### x`), `answer_tag` (`<answer>x</answer>`), `answer_is`
    (`Answer: x`, `the answer is x`) or `raw` (the whole text after the thinking).
    """
    if marker not in MARKERS:
        raise RewardError(f"math: marker={marker!r}: unknown; choose one of {', '.join(MARKERS)}")
    gold = gold_answer(item.answer)
    text = final_text(item.response, item.prompt)
    if text is None:
        return Score(value=0.0, status=Status.NO_ANSWER, detail="the thinking was never closed")
    found = find_answer(text, marker)
    if found.refusal:
        return Score(value=0.0, status=Status.REFUSED, detail=found.refusal)
    if not found.answers:
        return Score(value=0.0, status=Status.NO_ANSWER, detail=f"no answer in the form {marker!r}")
    answer = ", ".join(found.answers)
    if marker != "raw" and not is_several(gold) and _enumerates(answer):
        return Score(value=0.0, status=Status.REFUSED, detail="several answers where one is asked for")
    policies = Policies(is_list_order_free=is_list_order_free, min_rounded_decimals=min_rounded_decimals)
    try:
        return Score(value=float(are_equal(answer, gold, policies)), detail=answer)
    except UnreadableGold as error:
        return Score(value=None, status=Status.ERROR, detail=str(error))


def gold_answer(column: str | None) -> str:
    r"""The gold answer within a data set's column: after `####`, in its last box, or all of it."""
    text = (column or "").strip()
    if "####" in text:
        text = text.rpartition("####")[2].strip()
    boxes = boxes_in(text)
    return boxes[-1][2].strip() if len(boxes) == 1 else text


def is_several(gold: str) -> bool:
    """The gold answer is a list, a tuple, a set or an interval, so that answers may hold separators too."""
    return bool(_SEVERAL.search(_THOUSANDS.sub("", gold)))


def _enumerates(answer: str) -> bool:
    """The answer has separators outside of brackets: `42 or 43`, `42; 43`."""
    text = _THOUSANDS.sub("", answer)
    return any(_is_outside(text, match.start()) for match in _SEPARATOR.finditer(text))


def _is_outside(text: str, place: int) -> bool:
    before = text[:place]
    return all(before.count(opening) <= before.count(closing) for opening, closing in ("()", "[]", "{}"))
