"""The language-consistency reward: the share of letters or words in the script that is wanted."""

import re

from rewards.contract import RewardError, RewardInput, Score, Status

_MOST_CHARACTERS = 50_000
_SCRIPTS = {
    "latin": r"A-Za-z\u00c0-\u024f\u1e00-\u1eff",
    "greek": r"\u0370-\u03ff\u1f00-\u1fff",
    "cyrillic": r"\u0400-\u052f",
    "hebrew": r"\u0590-\u05ff",
    "arabic": r"\u0600-\u06ff\u0750-\u077f",
    "devanagari": r"\u0900-\u097f",
    "thai": r"\u0e00-\u0e7f",
    "hangul": r"\u1100-\u11ff\uac00-\ud7af",
    "han": r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff",
    "japanese": r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff",
}
_UNITS = {"letters": re.compile(r"[^\W\d_]"), "words": re.compile(r"[^\W\d_]+")}
_NOT_LANGUAGE = re.compile(r"\\[A-Za-z]+|`[^`\n]*`|\$[^$\n]*\$|</?[A-Za-z_]+>|https?://\S+")


def score_language(item: RewardInput, script: str = "latin", unit: str = "letters") -> Score:
    """The share, 0 to 1, of the response's letters that belong to `script`; formulas, code and tags do not count.

    A response without letters is abstained from. `script` may name several: `latin+greek`. `unit: words` is the share
    of words instead, as in DeepSeek-R1 (arXiv:2501.12948, section 2.3.2): one counts when all its letters belong.
    """
    if unit not in _UNITS:
        raise RewardError(f"language: unit={unit!r}: unknown; choose from {', '.join(_UNITS)}")
    names = script.split("+")
    if unknown := [name for name in names if name not in _SCRIPTS]:
        raise RewardError(f"language: script={unknown[0]!r}: unknown; choose from {', '.join(_SCRIPTS)}")
    text = _NOT_LANGUAGE.sub(" ", item.response[:_MOST_CHARACTERS])
    units = _UNITS[unit].findall(text)
    if not units:
        return Score(value=None, status=Status.ABSTAIN, detail="no letters")
    wanted = re.compile("[" + "".join(_SCRIPTS[name] for name in names) + "]+")
    return Score(value=sum(1 for one in units if wanted.fullmatch(one)) / len(units))
