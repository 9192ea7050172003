"""Numbers as people write them, read exactly: integers, decimals, fractions and sums of them."""

import re
from fractions import Fraction

ROUNDED_DECIMALS = 4  # 2.6667 equals 8/3: so many places may be rounded

_LONGEST = 200
_THOUSANDS = r"[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9])"
_NUMBER = re.compile(rf"(?:{_THOUSANDS}|[1-9][0-9]{{0,2}}(?: [0-9]{{3}})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+")
_DECIMAL_COMMA = re.compile(r"[-+]?[0-9]+,[0-9]+")
_FRACTION = re.compile(r"\\frac\{(-?[0-9]+)\}\{(-?[0-9]+)\}")
_TOKEN = re.compile(rf"(?:{_THOUSANDS}|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+|[-+*/()]")
_AROUND_OPERATORS = re.compile(r" *([-+*/()]) *")
_DEEPEST = 20


def read_number(text: str) -> Fraction | None:
    r"""The exact value of `42`, `-1,234.5`, `3/4`, `\frac{3}{4}` or `(40 + 4) / 2 - 3`; None for anything else."""
    text = text.strip()
    if len(text) > _LONGEST or not text.isascii():
        return None
    start = 1 if text[:1] in ("-", "+") else 0
    sign = -1 if text[:1] == "-" else 1
    if _NUMBER.fullmatch(text, start):
        return sign * Fraction(text[start:].replace(",", "").replace(" ", "").removesuffix("."))
    if match := _FRACTION.fullmatch(text, start):
        return Fraction(sign * int(match[1]), int(match[2])) if int(match[2]) else None
    return _Reader(text).value()


def read_decimal_comma(text: str) -> Fraction | None:
    """The value of `2,74` where a comma is the decimal point; None for anything else."""
    return Fraction(text.replace(",", ".")) if len(text) <= _LONGEST and _DECIMAL_COMMA.fullmatch(text) else None


def decimal_places(text: str) -> int:
    """The digits after the last decimal point."""
    return max((len(digits) for digits in re.findall(r"\.([0-9]+)", text)), default=0)


def numbers_equal(answer: str, gold: str, min_rounded_decimals: int = ROUNDED_DECIMALS) -> bool | None:
    """The verdict on two numbers; None when one of them is none, or a comma may be a decimal point or a separator."""
    left, right = read_number(answer), read_number(gold)
    if left is not None and right is not None:
        places = decimal_places(answer) or decimal_places(gold)
        is_rounded = places >= min_rounded_decimals and abs(left - right) <= Fraction(1, 2 * 10**places)
        return left == right or is_rounded
    left = left if left is not None else read_decimal_comma(answer)
    right = right if right is not None else read_decimal_comma(gold)
    return True if left is not None and left == right else None


class _Reader:
    """A recursive-descent reader of `+ - * / ( )`: no powers, so that a value is no longer than its text."""

    def __init__(self, text: str) -> None:
        compact = _AROUND_OPERATORS.sub(r"\1", text)
        self._tokens = _TOKEN.findall(compact)
        self._is_whole = sum(map(len, self._tokens)) == len(compact)
        self._at = 0

    def value(self) -> Fraction | None:
        """The value of the whole text."""
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
        if depth > _DEEPEST:
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
        return Fraction(token.replace(",", ""))  # ValueError for an operator or the end
