"""The format reward: sections in tags, in order, once each, with something in them and nothing between them."""

import re
from collections.abc import Sequence

from rewards.contract import RewardError, RewardInput, Score

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_END_TOKENS = re.compile(r"(?:\s|<\|[A-Za-z0-9_]{1,40}\|>|</s>)*")


def score_format(item: RewardInput, tags: Sequence[str] = ("think", "answer"), is_last_open: bool = False) -> Score:
    """1 when the response is exactly one section a tag, in this order; else 0, and the detail says why.

    A chat template may have opened the first tag: then the prompt ends with it, and the response must not repeat
    it. `is_last_open`: the last section has no tags of its own (`<think>...</think>` and then the answer).
    Use it with `times: math` or a small weight: alone, it teaches form without substance.
    """
    if len(tags) < 1 + is_last_open or not all(_NAME.fullmatch(tag) for tag in tags):
        raise RewardError(f"format: tags={list(tags)}: expected names such as [think, answer]")
    opened = item.prompt.rstrip().endswith(f"<{tags[0]}>")
    fault = _fault(item.response, list(tags), opened, is_last_open)
    return Score(value=float(not fault), detail=fault)


def _fault(text: str, tags: list[str], is_opened: bool, is_last_open: bool) -> str:
    """What the text does that the form forbids; empty for nothing. One pass over the tags, whatever the length."""
    tagged = tags[:-1] if is_last_open else tags
    expected = [mark for tag in tagged for mark in (f"<{tag}>", f"</{tag}>")][1 if is_opened else 0 :]
    matches = list(re.finditer("|".join(f"</?{re.escape(tag)}>" for tag in tags), text))
    marks = [match.group() for match in matches]
    if marks != expected:
        return f"the tags are {' '.join(marks[:8]) or 'missing'}; expected {' '.join(expected)}"
    at = 0
    for match in matches:
        is_empty = not text[at : match.start()].strip()
        if match.group().startswith("</") == is_empty:
            return f"{'nothing' if is_empty else 'text'} before {match.group()}"
        at = match.end()
    is_end = bool(_END_TOKENS.fullmatch(text, at))
    if is_end == is_last_open:
        return f"{'nothing' if is_end else 'text'} after {expected[-1]}"
    return ""
