"""Going on after ranks of the learner were lost: new ranks, from the newest checkpoint."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from actors.placement import PlacementRefused
from actors.ranks import RanksLost, TrainerGroupError
from cluster.outcome import Outcome
from trainers import checkpoint

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """The checkpoint that a learner has loaded, proven by then, and the state in it."""

    folder: Path
    state: Mapping[str, Any]

    @property
    def step(self) -> int:
        """Training steps done by then."""
        return self.state["step"]


class Restartable(Protocol):
    """What is needed of a learner here."""

    async def load(self, folder: Path) -> Mapping[str, Any]:
        """See `PolicyLearner.load`."""
        ...

    def close(self) -> None:
        """End all ranks."""
        ...


LearnerT = TypeVar("LearnerT", bound=Restartable)


async def train_with_restarts(
    learner: LearnerT | None,
    attempt: Callable[[LearnerT, Resumed | None], Awaitable[Outcome]],
    *,
    start: Callable[[], Awaitable[LearnerT]],
    checkpoints: Path,
    resume_from: Path | None,
    max_restarts: int,
) -> Outcome:
    """What `attempt` gives, called with a learner and the checkpoint that was loaded into it, if there was one.

    `start` makes a learner in place of a lost one.

    When ranks are lost, whatever came after the newest checkpoint is done again: no update is lost or counted twice.
    RanksLost after `max_restarts`; other failures at once, since they would come again.
    """
    for restarts_left in reversed(range(max_restarts + 1)):
        try:
            learner = learner or await _room_found(start)
            resumed = None
            if resume_from is not None:
                resumed = Resumed(folder=resume_from, state=await learner.load(resume_from))
            return await attempt(learner, resumed)
        except RanksLost as loss:
            if not restarts_left:
                raise
            resume_from = checkpoint.latest_valid(checkpoints)
            place = "the beginning" if resume_from is None else resume_from.name
            logger.warning("%s; new ranks go on from %s (restarts left: %d)", loss, place, restarts_left - 1)
        finally:
            if learner is not None:
                learner.close()
        learner = None
    raise AssertionError("the last attempt returns or raises")


async def _room_found(start: Callable[[], Awaitable[LearnerT]]) -> LearnerT:
    """New ranks. TrainerGroupError when the cluster has no room for them any more: that is no wrong input."""
    try:
        return await start()
    except PlacementRefused as refused:
        raise TrainerGroupError(f"lost ranks can't be replaced: {refused}") from None
