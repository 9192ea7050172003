"""The mathematics reward: find the marked answer, and compare it with the gold answer."""

import re
from typing import Any

from rewards.contract import RewardError, RewardInput, Score, Status
from rewards.equality import Policies, UnreadableGold, are_equal, check_gold, warm_up
from rewards.markers import MARKERS, boxes_in, final_text, find_answer

__all__ = ["gold_answer", "score_math", "score_math_gold", "warm_up"]

_SEPARATOR = re.compile(r"[,;]|\\text\s*\{[^{}]*\b(?:and|or)\b[^{}]*\}|\b(?:and|or)\b")
_THOUSANDS = re.compile(r"(?<=[0-9])(?:,|\{,\}|,\\!\s?|,\s\\!)(?=[0-9]{3}(?![0-9]))|(?<=[0-9])\{,\}(?=[0-9])")
_SEVERAL = re.compile(r"[,;&]|\\pm|\\cup|\band\b|\bor\b|\\text\s*\{[^{}]*\b(?:and|or)\b")


def score_math(item: RewardInput, marker: str = "boxed", **policies: Any) -> Score:
    r"""1 or 0; NO_ANSWER without a marked answer after the thinking, REFUSED for one that hedges or hides.

    `marker`: `boxed` (`\boxed{x}`), `hashes` (`#### x`), `answer_tag` (`<answer>x</answer>`), `answer_is`
    (`Answer: x`, `the answer is x`) or `raw` (the last formula or number). `policies`: see equality.Policies.
    """
    if marker not in MARKERS:
        raise RewardError(f"math: marker={marker!r}: unknown; choose one of {', '.join(MARKERS)}")
    try:
        chosen = Policies(**policies)
    except TypeError as error:
        raise RewardError(f"math: {error}; the policies are {', '.join(Policies.__dataclass_fields__)}") from error
    text = final_text(item.response, item.prompt)
    if text is None:
        return Score(value=0.0, status=Status.NO_ANSWER, detail="the thinking was never closed")
    found = find_answer(text, marker)
    if found.refusal:
        return Score(value=0.0, status=Status.REFUSED, detail=found.refusal)
    if not found.answers:
        return Score(value=0.0, status=Status.NO_ANSWER, detail=f"no answer in the form {marker!r}")
    return _verdict(", ".join(found.answers), gold_answer(item.answer), chosen, is_whole=not found.is_text)


def score_math_gold(item: RewardInput) -> Score:
    """1 when the gold answer can be compared with; else 0, and the detail says why."""
    try:
        check_gold(gold_answer(item.answer))
    except UnreadableGold as error:
        return Score(value=0.0, detail=str(error))
    return Score(value=1.0)


def _verdict(answer: str, gold: str, policies: Policies, is_whole: bool) -> Score:
    if is_whole and not is_several(gold) and _enumerates(answer):
        return Score(value=0.0, status=Status.REFUSED, detail="several answers where one is asked for")
    try:
        return Score(value=float(are_equal(answer, gold, policies, is_whole)), detail=answer[-80:])
    except UnreadableGold as error:
        return Score(value=None, status=Status.ERROR, detail=str(error))


def gold_answer(column: str | None) -> str:
    r"""The gold answer within a data set's column: after `####`, in its only box, or all of it."""
    text = (column or "").strip()
    if "####" in text:
        text = text.rpartition("####")[2].strip()
    boxes = boxes_in(text)
    return boxes[-1][2].strip() if len(boxes) == 1 else text


def is_several(gold: str) -> bool:
    """The gold answer is a list, a tuple, a set or an interval, so that answers may hold separators too."""
    return len(boxes_in(gold)) > 1 or bool(_SEVERAL.search(_THOUSANDS.sub("", gold)))


def _enumerates(answer: str) -> bool:
    """The answer has separators outside of brackets: `42 or 43`, `42; 43`."""
    text = _THOUSANDS.sub("", answer)
    return any(_is_outside(text, match.start()) for match in _SEPARATOR.finditer(text))


def _is_outside(text: str, place: int) -> bool:
    before = text[:place]
    return all(before.count(opening) <= before.count(closing) for opening, closing in ("()", "[]", "{}"))
