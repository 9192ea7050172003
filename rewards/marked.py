"""The answer that a response gives, as a text: what votes are counted by."""

from dataclasses import dataclass
from typing import Literal

from rewards.choice import letters_in
from rewards.contract import RewardInput
from rewards.gsm8k import bare_number
from rewards.markers import MARKERS, final_text, find_answer

_CHOICES = "ABCDEFGHIJ"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How a reward reads answers: where they are, and what they are.

    `has_argument`: the reward takes another marker, as its argument of that name.
    """

    marker: str
    kind: Literal["formula", "number", "amount", "letter", "text"]
    has_argument: bool = True

    @property
    def is_mathematical(self) -> bool:
        """Texts of the same value are one answer; else none but the same text is."""
        return self.kind in ("formula", "number", "amount")


READINGS = {
    "math": Reading(marker="boxed", kind="formula"),
    "gsm8k": Reading(marker="hashes", kind="amount", has_argument=False),
    "number": Reading(marker="raw", kind="number"),
    "choice": Reading(marker="answer_is", kind="letter"),
    "exact": Reading(marker="raw", kind="text"),
    "countdown": Reading(marker="answer_tag", kind="text"),
    "reasoning_gym": Reading(marker="answer_tag", kind="text"),
}


def reading_of(use: str, marker: str | None) -> Reading | None:
    """How the responses that this reward judges are read; None where nothing says so.

    `marker`: where the answer is, in place of the reward's own. ValueError for none that there is, or where the
    reward would read another.
    """
    own = READINGS.get(use)
    if marker is None:
        return own
    if marker not in MARKERS:
        raise ValueError(f"marker={marker!r}: unknown; choose one of {', '.join(MARKERS)}")
    if own is None:
        return Reading(marker=marker, kind="formula", has_argument=False)
    if not own.has_argument and marker != own.marker:
        raise ValueError(f"marker={marker!r}: the reward {use} reads {own.marker} and nothing else")
    return Reading(marker=marker, kind=own.kind, has_argument=own.has_argument)


def marked_answer(item: RewardInput, reading: Reading) -> str | None:
    """The answer, without its marker; None where there is none, or where it is refused (hedged, hidden)."""
    text = final_text(item.response, item.prompt)
    if text is None:
        return None
    if reading.marker == "raw" and reading.kind in ("number", "text"):
        return " ".join(text.split()) or None
    found = find_answer(text, reading.marker)
    answer = "" if found.refusal else ", ".join(found.answers)
    if reading.kind == "letter":
        letters = letters_in(answer, _CHOICES)
        return min(letters) if len(letters) == 1 else None
    answer = bare_number(answer) if reading.kind == "amount" else answer
    return " ".join(answer.split()) or None
