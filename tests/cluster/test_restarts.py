"""When ranks are lost, what is done again, and what is not."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from actors.ranks import RanksLost, TrainerGroupError
from cluster.outcome import Outcome
from cluster.restarts import Resumed, train_with_restarts
from trainers import checkpoint


class Learner:
    """Notes what becomes of it."""

    def __init__(self) -> None:
        self.loaded: Path | None = None
        self.is_closed = False

    async def load(self, folder: Path) -> Mapping[str, Any]:
        self.loaded = folder
        return checkpoint.read_state(folder)

    def close(self) -> None:
        self.is_closed = True


def saved(root: Path, step: int) -> Path:
    folder = checkpoint.folder_of(root, step)
    draft = checkpoint.begin(folder)
    checkpoint.write_state(draft, {"step": step})
    checkpoint.commit(draft, folder, checkpoint.Written(world_size=1, config_digest="d"))
    return folder


def train(root: Path, failures: list[Exception], max_restarts: int, save_at: int | None = None) -> tuple[Any, ...]:
    """What came of a run whose attempts fail so, one after the other; its learners, and the steps they began at."""
    learners = [Learner()]
    begun: list[int] = []

    async def start() -> Learner:
        learners.append(Learner())
        return learners[-1]

    async def attempt(learner: Learner, resumed: Resumed | None) -> Outcome:
        begun.append(0 if resumed is None else resumed.step)
        assert all(earlier.is_closed for earlier in learners[:-1])
        if save_at is not None and len(begun) == 1:
            saved(root, save_at)
        if failures:
            raise failures.pop(0)
        return Outcome(step=9, is_finished=True, folder=root, export=None)

    try:
        result: object = asyncio.run(
            train_with_restarts(
                learners[0], attempt, start=start, checkpoints=root, resume_from=None, max_restarts=max_restarts
            )
        )
    except (TrainerGroupError, ValueError) as error:
        result = error
    return result, learners, begun


def test_new_ranks_go_on_from_the_newest_checkpoint(tmp_path: Path) -> None:
    result, learners, begun = train(tmp_path, [RanksLost("rank 1 died")], 1, save_at=4)
    assert isinstance(result, Outcome)
    assert begun == [0, 4]
    assert [learner.loaded for learner in learners] == [None, checkpoint.folder_of(tmp_path, 4)]
    assert all(learner.is_closed for learner in learners)


def test_without_a_checkpoint_they_begin_anew(tmp_path: Path) -> None:
    result, _, begun = train(tmp_path, [RanksLost("rank 1 died")], 1)
    assert isinstance(result, Outcome) and begun == [0, 0]


@pytest.mark.parametrize("max_restarts", [0, 2])
def test_the_last_loss_ends_the_run(tmp_path: Path, max_restarts: int) -> None:
    losses = [RanksLost(f"loss {number}") for number in range(5)]
    result, learners, _ = train(tmp_path, list(losses), max_restarts)
    assert result is losses[max_restarts]
    assert len(learners) == max_restarts + 1


@pytest.mark.parametrize("failure", [TrainerGroupError("out of memory in a pass"), ValueError("a bad row")])
def test_what_would_come_again_is_not_tried_again(tmp_path: Path, failure: Exception) -> None:
    result, learners, _ = train(tmp_path, [failure], 3)
    assert result is failure and len(learners) == 1 and learners[0].is_closed
