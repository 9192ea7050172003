"""When a run is saved, and what becomes of a save that fails."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from configs.schema import CheckpointConfig
from metrics.waits import waited
from trainers import checkpoint
from trainers.best import BestRule, known_best, ranked, write_note
from trainers.checkpoint import Written

logger = logging.getLogger(__name__)

# Writes into a draft what the driver knows, as it was when this was made.
Snapshot = Callable[[Path], Awaitable[None]]


class Savable(Protocol):
    """Anything that writes models into a checkpoint's draft."""

    def save(self, draft: Path) -> Awaitable[Written]:
        """See `Learner.save`."""
        ...


def state_snapshot(state: Mapping[str, Any]) -> Snapshot:
    """Writes the state that `checkpoint.read_state` reads."""

    async def write(draft: Path) -> None:
        written = asyncio.to_thread(checkpoint.write_state, draft, state)
        await waited(written, what="the state of a checkpoint", owner="disk")

    return write


async def save_checkpoint(learner: Savable, folder: Path, snapshot: Snapshot) -> None:
    """Write a whole checkpoint. OSError when the disk has no room; what was written of it is dropped then."""
    draft, written = await write_models(learner, folder)
    await complete(draft, folder, written, snapshot)


async def write_models(learner: Savable, folder: Path) -> tuple[Path, Written]:
    """A draft of the checkpoint `folder` with the models in it: until this returns, their weights must not move."""
    begun = asyncio.to_thread(checkpoint.begin, folder)
    draft = await waited(begun, what=f"room for {folder.name}", owner="disk")
    try:
        return draft, await learner.save(draft)
    except BaseException:
        checkpoint.discard(draft)
        raise


async def complete(draft: Path, folder: Path, written: Written, snapshot: Snapshot) -> None:
    """Make the draft the checkpoint `folder`; dropped when that fails."""
    try:
        await snapshot(draft)
        committed = asyncio.to_thread(checkpoint.commit, draft, folder, written)
        await waited(committed, what=f"the checksums of {folder.name}", owner="disk")
    except Exception:  # not when cancelled: a thread may be at work in it
        checkpoint.discard(draft)
        raise


class _Save(NamedTuple):
    step: int
    draft: Path
    recorded: asyncio.Event
    completing: asyncio.Task[None]


class Saver:
    """Saves every few steps and at the end, and keeps the newest few checkpoints and the best few.

    While a save goes on the training waits only until the models are written. They are hashed, flushed to the disk
    and made a checkpoint while the next step runs, one save at a time.
    """

    def __init__(
        self,
        config: CheckpointConfig,
        *,
        learner: Savable,
        folder: Path,
        snapshot: Callable[[int], Snapshot],
        best: BestRule | None = None,
        saved_step: int | None = None,
    ) -> None:
        """`snapshot`: of the moment that it is called at, with so many steps done. `saved_step`: resumed from there."""
        self._best = best
        self._config = config
        self._learner = learner
        self._folder = folder
        self._snapshot = snapshot
        self._under_way: _Save | None = None
        self._saved_step = saved_step
        self._failures: list[OSError] = []  # in a row

    async def after_step(self, step: int) -> None:
        """Save if it is time; the checkpoint is complete some time after `recorded` is called for this step.

        A full disk may be emptied meanwhile: OSError only after `max_failed_saves` in a row.
        """
        if not self._config.every_steps or step % self._config.every_steps:
            return
        await self._settle()
        await self._begin(step)
        if len(self._failures) >= self._config.max_failed_saves:
            raise self._failures[-1]

    def recorded(self, step: int) -> None:
        """What the run says of the step is on disk. A run that goes on from its checkpoint won't say it again."""
        if self._under_way is not None and self._under_way.step == step:
            self._under_way.recorded.set()

    async def save(self, step: int) -> None:
        """Save the last step, which is recorded by now, unless that is done. OSError when it fails."""
        await self._settle()
        if self._saved_step != step:
            await self._begin(step)
            self.recorded(step)
            await self._settle()
        if self._saved_step != step:
            raise self._failures[-1]

    async def settled(self) -> None:
        """Wait for the save under way, if there is one: its checkpoint and best.json are on disk then."""
        await self._settle()

    async def close(self) -> None:
        """Let the save under way end; it is dropped if its step was never recorded."""
        if self._under_way is None:
            return
        save = self._under_way
        if not save.recorded.is_set():
            save.completing.cancel()
        await waited(asyncio.wait([save.completing]), what="the save under way", owner="disk")
        if save.completing.cancelled():
            checkpoint.discard(save.draft)
            self._under_way = None

    async def _begin(self, step: int) -> None:
        snapshot, folder = self._snapshot(step), checkpoint.folder_of(self._folder, step)
        try:
            draft, written = await write_models(self._learner, folder)
        except OSError as error:
            self._fail(step, error)
            return
        recorded = asyncio.Event()
        completing = asyncio.create_task(self._complete(step, draft, written, snapshot, recorded))
        self._under_way = _Save(step, draft, recorded, completing)

    async def _settle(self) -> None:
        """Wait for the save under way, if there is one. Raises what no disk is to blame for."""
        if self._under_way is not None:
            try:
                completing = self._under_way.completing
                await waited(completing, what="the save under way", owner="disk", seconds=math.inf)  # it has its own
            finally:
                self._under_way = None

    async def _complete(
        self, step: int, draft: Path, written: Written, snapshot: Snapshot, recorded: asyncio.Event
    ) -> None:
        await waited(recorded.wait(), what=f"the record of step {step}", owner="samples")
        try:
            await complete(draft, checkpoint.folder_of(self._folder, step), written, snapshot)
            await waited(asyncio.to_thread(self._prune), what="the end of old checkpoints", owner="disk")
        except OSError as error:
            self._fail(step, error)
        else:
            self._saved_step = step
            self._failures.clear()

    def _prune(self) -> None:
        best = []
        if self._best is not None:
            known = known_best(self._folder, self._best)
            best = ranked(checkpoint.all_checkpoints(self._folder), self._best, known)
        if self._best is not None and best:
            write_note(self._folder, self._best, best)
        checkpoint.prune(self._folder, self._config.keep_last, [one.folder for one in best])

    def _fail(self, step: int, error: OSError) -> None:
        self._failures.append(error)
        logger.error("checkpoint of step %d was not written (%s); older ones are as they were", step, error)
