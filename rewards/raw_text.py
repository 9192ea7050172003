"""The formula or number that a text without an answer marker ends on."""

import re
from dataclasses import dataclass

_TAIL = 4_000  # characters from the end that are looked at
_NEAR = 100  # characters after the word "answer" within which a number counts as that answer

_MARKED = (
    r"\$\$(?:[^$]|\$(?!\$))+\$\$|\\\[(?:[^\\]|\\(?!\]))+\\\]|\\\((?:[^\\\n]|\\(?!\)))+\\\)"
    r"|(?<![\\0-9])\$(?:\\\$|[^\n$])+(?<!\\)\$"
)
_DELIMITED = re.compile(_MARKED)
_FORMULA = re.compile(_MARKED + r"|-?\\[dtc]?frac\{-?[0-9.,]+\}\{-?[0-9.,]+\}")
_NUMBER = r"(?:[1-9][0-9]{0,2}(?:[ ,][0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:[.,][0-9]+)?|\.[0-9]+)"
_EXPRESSION = re.compile(
    rf"(?<![A-Za-z0-9_.])(?:(?<=[\s=(:*$€£¥])|(?<![!-~])|^)(?P<value>-?\(*[$€£¥]?{_NUMBER}\)*"
    rf"(?:[ ]?[-+*/^×÷][ ]?\(*-?{_NUMBER}\)*)*)(?P<percent>\s?(?:\\?%|[Pp]ercent\b|[Pp]ct\b))?"
)
_DECIMAL_COMMA = re.compile(r"-?(?:0|[0-9]+),(?:[0-9]{1,2}|[0-9]{4,})")
_ANSWER = re.compile(r"answer", re.IGNORECASE)
_COMMAND = re.compile(r"\\(?:text|mathrm|mbox|textbf|operatorname)\{[^{}]*\}|\\[A-Za-z]+")
_WORD = re.compile(r"[^\W\d_]{3,}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What a text ends on: a formula to be read whole, or (`has_markup`) a text whose own marks say what to read."""

    latex: str
    has_markup: bool


def is_formula(text: str) -> bool:
    """The whole text is a formula or number, without words around it."""
    return len(text) <= 400 and not _DELIMITED.search(text) and not _WORD.search(_COMMAND.sub(" ", text))


def ending(text: str) -> Ending | None:
    """The last formula or number of `text`, or the first one after the last "answer"; None when there is neither."""
    text = text[-_TAIL:]
    if is_formula(text):
        return Ending(latex=text, has_markup=False)
    formulas = list(_FORMULA.finditer(text))
    plain = text
    for match in formulas:
        plain = plain[: match.start()] + " " * len(match.group()) + plain[match.end() :]
    answers = list(_ANSWER.finditer(text))
    said = answers[-1].end() if answers else len(text)
    after = _EXPRESSION.search(plain, said, said + _NEAR)
    marked = [match for match in formulas if match.start() >= said]
    if after and not any(match.end() > after.end() for match in marked):
        return Ending(latex=_as_latex(_last_of_equation(plain, after)), has_markup=False)
    if "\\boxed" in text or marked:
        return Ending(latex=text, has_markup=True)
    numbers = list(_EXPRESSION.finditer(plain))
    if numbers and (not formulas or numbers[-1].end() > formulas[-1].end()):
        return Ending(latex=_as_latex(numbers[-1]), has_markup=False)
    return Ending(latex=text, has_markup=True) if formulas else None


def last_number(text: str) -> str | None:
    """The last number or sum of numbers, as LaTeX, whatever stands around it."""
    numbers = list(_EXPRESSION.finditer(text[-_TAIL:]))
    return _as_latex(numbers[-1]) if numbers else None


def _last_of_equation(text: str, match: re.Match[str]) -> re.Match[str]:
    """In `35 + 70 = 105` the last part is meant."""
    while further := re.compile(r"\s*=\s*").match(text, match.end()):
        following = _EXPRESSION.match(text, further.end())
        if following is None:
            return match
        match = following
    return match


def _as_latex(match: re.Match[str]) -> str:
    value = re.sub(r"[$€£¥]", "", match["value"]).replace("×", "\\times ").replace("÷", "/").replace("*", "\\times ")
    value = re.sub(r"\^([0-9.]+)", r"^{\1}", value)
    while value.endswith(")") and value.count(")") > value.count("("):
        value = value[:-1]
    while value.startswith("(") and value.count("(") > value.count(")"):
        value = value[1:]
    if _DECIMAL_COMMA.fullmatch(value):
        value = value.replace(",", ".")
    return value + ("\\%" if match["percent"] else "")
