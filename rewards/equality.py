r"""Whether two answers are equal as mathematics: as texts, as exact numbers, and by Math-Verify.

Math-Verify is only ever called here, with its own time-outs off (they are alarms, which fail in threads and
hide their failure as "unequal"): this module belongs into a process that its parent can kill.
"""

import functools
import logging
import math
import re
from dataclasses import dataclass
from typing import Any

from math_verify import LatexExtractionConfig, parse, verify

from rewards.numbers import ROUNDED_DECIMALS, decimal_places, numbers_equal, read_number
from rewards.raw_text import ending, last_number

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its time-outs are off, as they must be

_SAME = (
    ("\\left", ""), ("\\right", ""), ("\\!", ""), ("\\,", ""), ("\\;", ""), ("\\$", ""), ("$", ""),
    ("\\dfrac", "\\frac"), ("\\tfrac", "\\frac"), ("\\cfrac", "\\frac"), ("{,}", ","), ("−", "-"),
)  # fmt: skip
_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mbox|textnormal|mathbf)\{([^{}]*)\}")
_PERCENT = re.compile(r"%|\b(?:percent|percentage|pct)\b")
_SPLIT = re.compile(r"\s*[,;]\s*")
_SIMPLE_FRACTION = re.compile(r"-?(?:\\frac\{(-?\d+)\}\{(-?\d+)\}|(\d+)/(\d+))")
_LONGEST_FORMULA = 400
_MOST_DECIMALS = 6  # beyond these Math-Verify rounds anyway


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """Where careful people disagree about equality."""

    is_percent_optional: bool = True  # 100% equals 100
    is_list_order_free: bool = True  # "1, 2" equals "2, 1"
    must_be_reduced: bool = False  # 2/4 is no answer where 1/2 is asked for
    is_decimal_a_fraction: bool = True  # 0.5 equals 1/2
    min_rounded_decimals: int = ROUNDED_DECIMALS  # 2.6667 equals 8/3: so many places may be rounded


def warm_up() -> None:
    """Read one formula, which makes the parser build its tables: a third of a second, better paid once."""
    parsed("\\frac{1}{2}", is_whole=True)


class UnreadableGold(Exception):
    """The gold answer is nothing that can be compared with."""


def are_equal(answer: str, gold: str, policies: Policies, is_whole: bool = True) -> bool:
    """Whether `answer` is what `gold` is, by the cheapest way that decides. UnreadableGold when gold is nothing.

    `is_whole`: the answer is a formula or number; False: a text that ends on one.
    """
    left, right = normalised(answer), normalised(gold)
    if not right:
        raise UnreadableGold("the gold answer is empty")
    if left == right:
        return True
    if is_whole and _is_against(policies, left, right):
        return False
    decided = numbers_equal(left, right, policies.min_rounded_decimals)
    return _verified(answer, gold, policies, is_whole) if decided is None else decided


def check_gold(gold: str) -> None:
    """UnreadableGold unless `gold` is a number or a formula, or one word (which only itself can equal)."""
    plain = normalised(gold)
    if not plain:
        raise UnreadableGold("the gold answer is empty")
    if read_number(plain) is not None or plain.isalpha():
        return
    if all(isinstance(part, str) for part in parsed(gold, is_whole=False)):
        raise UnreadableGold(f"the gold answer {gold[-80:]!r} does not parse")


@functools.lru_cache(maxsize=8192)
def normalised(text: str) -> str:
    """`text` without what carries no meaning: spaces, dollar signs, sizes of brackets, a full stop, marks of text."""
    text = text.strip()
    if "\\" in text or "$" in text or "−" in text or "{" in text:
        for old, new in _SAME:
            text = text.replace(old, new)
        text = _TEXT.sub(r"\1", text)
    return " ".join(text.split()).removesuffix(".").strip()


def _is_against(policies: Policies, answer: str, gold: str) -> bool:
    """A policy that is stricter than the default rules the answer out."""
    if not policies.is_percent_optional and bool(_PERCENT.search(answer)) != bool(_PERCENT.search(gold)):
        return True
    if policies.must_be_reduced and _is_reducible(answer):
        return True
    is_one_a_decimal = ("." in answer) != ("." in gold)
    is_one_a_fraction = _SIMPLE_FRACTION.fullmatch(answer) or _SIMPLE_FRACTION.fullmatch(gold)
    if not policies.is_decimal_a_fraction and is_one_a_decimal and is_one_a_fraction:
        return True
    return not policies.is_list_order_free and not _are_equal_in_order(policies, answer, gold)


def _is_reducible(answer: str) -> bool:
    fraction = _SIMPLE_FRACTION.fullmatch(answer)
    return fraction is not None and math.gcd(*(int(part) for part in fraction.groups() if part is not None)) != 1


def _are_equal_in_order(policies: Policies, answer: str, gold: str) -> bool:
    """Bare lists are equal element by element; what is no list is not judged here."""
    left, right = _SPLIT.split(answer), _SPLIT.split(gold)
    if len(left) == 1 or len(right) == 1:
        return True
    return len(left) == len(right) and all(map(are_equal, left, right, [policies] * len(left)))


def _verified(answer: str, gold: str, policies: Policies, is_whole: bool) -> bool:
    golds = parsed(gold, is_whole=False)
    if not golds:
        raise UnreadableGold(f"the gold answer {gold[-80:]!r} does not parse")
    answers = parsed(answer, is_whole)
    if verify(golds, answers, timeout_seconds=0):
        return True
    places = decimal_places(answer)
    if policies.min_rounded_decimals <= places < _MOST_DECIMALS:
        return bool(verify(golds, answers, float_rounding=places, timeout_seconds=0))
    return False


@functools.lru_cache(maxsize=8192)
def parsed(text: str, is_whole: bool) -> list[Any]:
    """What Math-Verify makes of `text`; empty when it makes nothing of it.

    Only its reader of LaTeX is used: the one for plain expressions evaluates what it finds.
    """
    found = None if is_whole else ending(text)
    if found is None:
        return _parsed_formula(text) if len(text) <= _LONGEST_FORMULA else []
    if found.has_markup:
        read = parse(text, [LatexExtractionConfig()], parsing_timeout=0)
    else:
        read = _parsed_formula(found.latex)
    if all(isinstance(part, str) for part in read) and (number := last_number(text)):
        return _parsed_formula(number)
    return read


def _parsed_formula(latex: str) -> list[Any]:
    boxed = latex if "\\boxed" in latex else f"$\\boxed{{{latex}}}$"
    return parse(boxed, [LatexExtractionConfig(boxed_match_priority=0)], parsing_timeout=0)
