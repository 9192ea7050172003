"""The multiple-choice reward: the one letter that the answer names."""

import re

from rewards.contract import RewardError, RewardInput, Score, Status
from rewards.markers import MARKERS, final_text, find_answer

_GOLD = re.compile(r"^[\s(\[*]*([A-Z])(?:[\s).:\]*]|$)")
_WORD_AFTER = re.compile(r" (?!(?:or|and|nor|but|not|is)\b)[a-z]")
_COMMAND = re.compile(r"\\(?:text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}")


def score_choice(item: RewardInput, marker: str = "answer_is", choices: str = "ABCDEFGHIJ") -> Score:
    """1 when the marked answer names the gold letter and no other; REFUSED for two letters, NO_ANSWER for none.

    `marker` as in `math`; `choices`: the letters that are choices. The gold may be `B` or `(B) Paris`.
    """
    if marker not in MARKERS:
        raise RewardError(f"choice: marker={marker!r}: unknown; choose one of {', '.join(MARKERS)}")
    gold = _GOLD.match((item.answer or "").strip())
    if gold is None or gold[1] not in choices:
        return Score(value=None, status=Status.ERROR, detail=f"the gold answer {item.answer!r} is none of {choices}")
    text = final_text(item.response, item.prompt)
    found = find_answer(text, marker) if text is not None else None
    if found is None or not (found.answers or found.refusal):
        return Score(value=0.0, status=Status.NO_ANSWER, detail=f"no answer in the form {marker!r}")
    if found.refusal:
        return Score(value=0.0, status=Status.REFUSED, detail=found.refusal)
    letters = letters_in(" ".join(found.answers), choices)
    if len(letters) > 1:
        return Score(value=0.0, status=Status.REFUSED, detail=f"several choices: {', '.join(sorted(letters))}")
    if not letters:
        return Score(value=0.0, status=Status.NO_ANSWER, detail="the answer names no choice")
    return Score(value=float(letters == {gold[1]}), detail=min(letters))


def letters_in(answer: str, choices: str) -> set[str]:
    """The choices that stand alone in `answer`; the article or pronoun in "(C) A city" is none."""
    text = _COMMAND.sub(r" \1 ", answer)
    found = re.finditer(rf"(?<![A-Za-z0-9'])[{re.escape(choices)}](?![A-Za-z0-9'])", text)
    return {match.group() for match in found if match.group() not in "AI" or not _WORD_AFTER.match(text, match.end())}
