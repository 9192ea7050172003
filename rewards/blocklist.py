"""The safety reward by list: whether a response holds any word or phrase that it must not."""

import functools
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from rewards.contract import RewardError, RewardInput, Score


def score_blocklist(item: RewardInput, words: Sequence[str] = (), file: str | None = None) -> Score:
    """1 when none of `words` (and of the lines of `file`) is in the response, else 0. Use it with `veto_below: 1`.

    Case, width and other forms of a letter, and invisible characters do not matter; word borders do.
    """
    if not words and file is None:
        raise RewardError("blocklist: give args `words: [...]` or `file: path/to/list.txt`, one word or phrase a line")
    found = _pattern(tuple(words), file).search(_plain(item.response))
    return Score(value=float(found is None), detail="" if found is None else f"holds {found.group()!r}")


def _plain(text: str) -> str:
    visible = "".join(character for character in text if unicodedata.category(character) != "Cf")
    return " ".join(unicodedata.normalize("NFKC", visible).casefold().split())


@functools.lru_cache(maxsize=16)
def _pattern(words: tuple[str, ...], file: str | None) -> re.Pattern[str]:
    lines = Path(file).read_text(encoding="utf-8").splitlines() if file else []
    phrases = sorted({plain for word in (*words, *lines) if (plain := _plain(word))}, key=len, reverse=True)
    return re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, phrases)) + r")(?!\w)")
