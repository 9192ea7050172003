"""Numbers as people write them, read exactly: integers, decimals, fractions and sums of them."""

import re
from fractions import Fraction

_LONGEST = 200
_NUMBER = re.compile(r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+")
_FRACTION = re.compile(r"\\[dtc]?frac\{(-?[0-9]+)\}\{(-?[0-9]+)\}")
_TOKEN = re.compile(r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+|[-+*/()]")


def read_number(text: str) -> Fraction | None:
    r"""The exact value of `42`, `-1,234.5`, `3/4`, `\frac{3}{4}` or `(40 + 4) / 2 - 3`; None for anything else."""
    if len(text) > _LONGEST or not text.isascii():
        return None
    text = text.strip()
    sign = text[:1] if text[:1] in ("-", "+") else ""
    if _NUMBER.fullmatch(text, len(sign)):
        return Fraction(text.replace(",", "").removesuffix("."))
    if match := _FRACTION.fullmatch(text, len(sign)):
        numerator, denominator = int(match[1]), int(match[2])
        if denominator == 0:
            return None
        return Fraction(-numerator if sign == "-" else numerator, denominator)
    return _Sum(text).value()


class _Sum:
    """A recursive-descent reader of `+ - * / ( )`: no powers, so that a value is no longer than its text."""

    def __init__(self, text: str) -> None:
        compact = re.sub(r"(?<![0-9]) +| +(?![0-9])", "", text)  # "1 000" stays, and is no number here
        self._tokens = _TOKEN.findall(compact)
        self._is_whole = sum(map(len, self._tokens)) == len(compact)
        self._at = 0

    def value(self) -> Fraction | None:
        if not self._is_whole or not self._tokens:
            return None
        try:
            value = self._sum(depth=0)
        except (ValueError, ZeroDivisionError):
            return None
        return value if self._at == len(self._tokens) else None

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _take(self) -> str:
        token = self._peek()
        self._at += 1
        return token

    def _sum(self, depth: int) -> Fraction:
        value = self._product(depth)
        while self._peek() in ("+", "-"):
            value = value + self._product(depth) if self._take() == "+" else value - self._product(depth)
        return value

    def _product(self, depth: int) -> Fraction:
        value = self._factor(depth)
        while self._peek() in ("*", "/"):
            value = value * self._factor(depth) if self._take() == "*" else value / self._factor(depth)
        return value

    def _factor(self, depth: int) -> Fraction:
        if depth > 20:
            raise ValueError("nested too deep")
        token = self._take()
        if token in ("-", "+"):
            value = self._factor(depth + 1)
            return -value if token == "-" else value
        if token == "(":
            value = self._sum(depth + 1)
            if self._take() != ")":
                raise ValueError("a bracket is not closed")
            return value
        return Fraction(token.replace(",", ""))
