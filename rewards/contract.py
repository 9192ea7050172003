"""What a reward sees and what it answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """How a verdict came about. Everything but OK and NO_ANSWER leaves the sample unscored."""

    OK = "ok"
    NO_ANSWER = "no_answer"  # scored 0: the response holds no answer marker
    ABSTAIN = "abstain"
    REFUSED = "refused"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardInput:
    """One finished response, as a reward function sees it."""

    prompt: str
    response: str
    answer: str | None
    messages: Sequence[Mapping[str, str]] = ()
    columns: Mapping[str, Any] = field(default_factory=dict)
    num_prompt_tokens: int = 0
    num_response_tokens: int = 0
    finish_reason: str = "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A verdict: the value (None when it could not be scored), how it came about, and its parts."""

    value: float | None
    status: Status = Status.OK
    detail: str = ""
    parts: Mapping[str, float] = field(default_factory=dict)
