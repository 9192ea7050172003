"""Where a response says what its answer is: markers, and the text that counts.

All of it is linear in the length of the response, with plain searches rather than backtracking patterns.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_TAIL = 20_000  # characters from the end that are looked at
_LONGEST_ANSWER = 400
_CLOSE = 80  # characters between two boxes that are taken for one answer
_LONG_DIGITS = re.compile(r"[0-9]{61}")
_DEEPEST = 40
_BETWEEN_BOXES = re.compile(
    r"(?:[\s,;.$&]|\\\\|\\q?quad|\\text\{[^{}]*\}|\b(?:and|or)\b|\\[()\[\]]|[A-Za-z](?:_\{?[A-Za-z0-9]+\}?)? *=)*"
)
_ANSWER_IS = re.compile(r"(?:answer\s*(?:is|:|=)|answer\s+is\s*:)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """What a marker yields: candidate answers (several boxes side by side are several), or why there is none."""

    answers: tuple[str, ...] = ()
    is_text: bool = False  # the answer is somewhere in it
    refusal: str = ""


def final_text(response: str, prompt: str = "") -> str | None:
    """What follows the thinking; None when the thinking was never closed.

    A chat template may have opened the thinking already: then the prompt ends in `<think>`.
    """
    end = response.rfind("</think>")
    is_open = end < 0 and prompt.rstrip().endswith("<think>")
    if is_open or response.find("<think>", max(end, 0)) >= 0:
        return None
    return response[end + len("</think>") if end >= 0 else 0 :][-_TAIL:]


def find_answer(text: str, marker: str) -> Marked:
    """The answer that `marker` marks in the final text; no answers when the marker is not there."""
    marked = MARKERS[marker](text)
    if marked.is_text:
        return marked
    for answer in marked.answers:
        if reason := _unfit(answer):
            return Marked(refusal=reason)
    return marked


def _unfit(answer: str) -> str:
    """Why an answer is not judged; empty when it is."""
    if len(answer) > _LONGEST_ANSWER:
        return f"an answer of {len(answer)} characters; at most {_LONGEST_ANSWER} are judged"
    if _LONG_DIGITS.search(answer):
        return "more than 60 digits in a row"
    if answer.isascii() and answer.isprintable():
        return "nested too deep" if _depth(answer) > _DEEPEST else ""
    for character in answer:
        if character in "\n\t\r\f\v":
            continue
        category = unicodedata.category(character)
        if category in ("Cc", "Cf", "Co", "Cs"):
            return f"a hidden character (U+{ord(character):04X}) in the answer"
        if category == "Nd" and not character.isascii():
            return f"a digit that is not ASCII (U+{ord(character):04X}) in the answer"
    return "nested too deep" if _depth(answer) > _DEEPEST else ""


def _depth(answer: str) -> int:
    depth = deepest = 0
    for character in answer:
        if character in "{([":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "})]":
            depth -= 1
    return deepest


def _boxed(text: str) -> Marked:
    boxes = [box for box in boxes_in(text) if box[2].strip()]
    if not boxes:
        return Marked()
    chain = [boxes[-1]]
    for box in reversed(boxes[:-1]):
        gap = text[box[1] : chain[0][0]]
        if not _BETWEEN_BOXES.fullmatch(gap):
            break
        chain.insert(0, box)
    contents = [content for _, _, content in chain]
    rivals = [content for _, end, content in boxes[: -len(chain)] if chain[0][0] - end <= _CLOSE]
    if any("".join(rival.split()) != "".join(contents[0].split()) for rival in rivals):
        return Marked(refusal="two different boxes close together")
    return Marked(answers=tuple(dict.fromkeys(content.strip() for content in contents)))


def boxes_in(text: str) -> Sequence[tuple[int, int, str]]:
    r"""Every balanced `\boxed{}` that is in no other: where it starts, where it ends, what it holds."""
    boxes = []
    at = 0
    while (start := text.find("\\boxed", at)) >= 0:
        opening = start + len("\\boxed")
        while opening < len(text) and text[opening] == " ":
            opening += 1
        end = _closing_brace(text, opening) if text[opening : opening + 1] == "{" else -1
        if end < 0:
            at = opening
            continue
        boxes.append((start, end + 1, text[opening + 1 : end]))
        at = end + 1
    return boxes


_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def _closing_brace(text: str, opening: int) -> int:
    depth = 0
    for match in _BRACE.finditer(text, opening, opening + 2 * _LONGEST_ANSWER + _TAIL // 10):
        brace = match.group()
        depth += (brace == "{") - (brace == "}")
        if depth == 0 and brace == "}":
            return match.start()
    return -1


def _after_hashes(text: str) -> Marked:
    _, marker, rest = text.rpartition("####")
    line = rest.strip().partition("\n")[0].strip()
    return Marked(answers=(line,)) if marker and line else Marked()


def _in_answer_tag(text: str) -> Marked:
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, max(end, 0))
    inside = text[start + len("<answer>") : end].strip() if end >= 0 and start >= 0 else ""
    if not inside:
        return Marked()
    return _boxed(inside) if "\\boxed" in inside else Marked(answers=(inside,))


def _after_answer_is(text: str) -> Marked:
    matches = list(_ANSWER_IS.finditer(text))
    if not matches:
        return Marked()
    line = text[matches[-1].end() :].strip().partition("\n")[0].strip()
    if line.lower().startswith("not "):
        return Marked()
    if "\\boxed" in line:
        return _boxed(line)
    sentence = re.split(r"\.(?:\s|$)", line, maxsplit=1)[0].strip(" *")
    return Marked(answers=(sentence,)) if sentence else Marked()


def _raw(text: str) -> Marked:
    if "\\boxed" in text:
        boxed = _boxed(text)
        if not _ANSWER_IS.search(text, text.rfind("\\boxed")):
            return boxed
    stripped = text.strip()
    return Marked(answers=(stripped,), is_text=True) if stripped else Marked()


MARKERS: dict[str, Callable[[str], Marked]] = {
    "boxed": _boxed,
    "hashes": _after_hashes,
    "answer_tag": _in_answer_tag,
    "answer_is": _after_answer_is,
    "raw": _raw,
}
