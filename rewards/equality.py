r"""Whether two answers are equal as mathematics: as texts, as exact numbers, and by Math-Verify.

Math-Verify is only ever called here, with its own time-outs off (they are alarms, which fail in threads and
hide their failure as "unequal"): this module belongs into a process that its parent can kill.
"""

import functools
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from math_verify import LatexExtractionConfig, parse, verify

from rewards.numbers import read_number

_SAME = (
    ("\\left", ""), ("\\right", ""), ("\\!", ""), ("\\,", ""), ("\\;", ""), ("\\$", ""), ("$", ""),
    ("\\dfrac", "\\frac"), ("\\tfrac", "\\frac"), ("\\cfrac", "\\frac"), ("{,}", ","), ("−", "-"),
)  # fmt: skip
_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mbox|textnormal|mathbf)\{([^{}]*)\}")
_SURELY_DIFFERENT = Fraction(1, 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """Where careful people disagree about equality."""

    is_list_order_free: bool = True  # "1, 2" equals "2, 1"
    min_rounded_decimals: int = 4  # 2.6667 equals 8/3: a decimal with so many places may be rounded


class UnreadableGold(Exception):
    """The gold answer is nothing that can be compared with."""


def are_equal(answer: str, gold: str, policies: Policies) -> bool:
    """Whether `answer` is what `gold` is; the cheapest way that decides is used. UnreadableGold when gold is none."""
    plain_answer, plain_gold = normalised(answer), normalised(gold)
    if not plain_gold:
        raise UnreadableGold(f"the gold answer {gold!r} is empty")
    if plain_answer == plain_gold:
        return True
    left, right = read_number(plain_answer), read_number(plain_gold)
    if left is not None and right is not None:
        if left == right:
            return True
        if left.denominator == right.denominator == 1 or abs(left - right) > _SURELY_DIFFERENT:
            return False
    return _verified(answer, gold, policies)


@functools.lru_cache(maxsize=8192)
def normalised(text: str) -> str:
    """`text` without what carries no meaning: spaces, dollar signs, sizes of brackets, a full stop, units of text."""
    text = text.strip()
    if "\\" in text or "$" in text or "−" in text or "{" in text:
        for old, new in _SAME:
            text = text.replace(old, new)
        text = _TEXT.sub(r"\1", text)
    return " ".join(text.split()).removesuffix(".").strip()


def _verified(answer: str, gold: str, policies: Policies) -> bool:
    golds = parsed(gold)
    if not golds:
        raise UnreadableGold(f"the gold answer {gold!r} does not parse")
    return bool(verify(golds, parsed(answer), timeout_seconds=0))


@functools.lru_cache(maxsize=8192)
def parsed(text: str) -> list[Any]:
    """What Math-Verify makes of `text`; empty when it makes nothing of it. LaTeX only: its other reader evaluates."""
    boxed = text if "\\boxed" in text else f"\\boxed{{{text}}}"
    return parse(boxed, [LatexExtractionConfig(boxed_match_priority=0)], parsing_timeout=0)
