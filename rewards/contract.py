"""What a reward sees and what it answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol


class Status(StrEnum):
    """How a verdict came about.

    OK, NO_ANSWER and REFUSED carry a value; the others leave the sample unscored, out of its group's
    baseline. A refusal is the policy's doing (hedging, hidden characters), so it is worth 0: were it
    unscored, hedging would be a way out of being wrong.
    """

    OK = "ok"
    NO_ANSWER = "no_answer"  # scored 0: the response holds no answer marker
    ABSTAIN = "abstain"  # the reward does not judge this sample
    REFUSED = "refused"  # scored 0: the answer is not in a form that is judged
    TIMEOUT = "timeout"
    MEMORY = "memory"
    ERROR = "error"
    UNSOUND = "unsound"  # its log-probs are not numbers: the engine that sampled it is broken

    @property
    def is_failure(self) -> bool:
        """Something broke: counted against `reward_pool.max_error_rate`."""
        return self in (Status.TIMEOUT, Status.MEMORY, Status.ERROR, Status.UNSOUND)


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
    id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A verdict: the value (None when it could not be scored), how it came about, and its parts."""

    value: float | None
    status: Status = Status.OK
    detail: str = ""
    parts: Mapping[str, float] = field(default_factory=dict)


class Scorer(Protocol):
    """A reward that runs outside the pool's processes: a reward server, a reward model."""

    def check(self, items: Sequence[RewardInput]) -> None:
        """Called with a few samples before a run starts; RewardError when it is clear that it cannot judge them."""
        ...

    async def score(self, items: Sequence[RewardInput]) -> Sequence[Score]:
        """One score for each item, in order."""
        ...


class RewardOutage(RuntimeError):
    """What scores stayed away for too long. The run should save its state and stop, to be resumed."""


UNFIT = "breaks the contract: "  # how the detail begins of a score that a reward function is at fault for


class RewardError(ValueError):
    """A reward that cannot be used as it stands: one line that says which, where and how to mend it."""
