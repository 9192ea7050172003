"""When a run is saved, and what becomes of a save that fails."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from configs.schema import CheckpointConfig
from trainers import checkpoint
from trainers.checkpoint import Written

logger = logging.getLogger(__name__)

MAX_FAILED_SAVES = 3  # in a row; a full disk may be emptied meanwhile

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
        await asyncio.to_thread(checkpoint.write_state, draft, state)

    return write


async def save_checkpoint(learner: Savable, folder: Path, snapshot: Snapshot) -> None:
    """Write a whole checkpoint. OSError when the disk has no room; what was written of it is dropped then."""
    draft = checkpoint.begin(folder)
    try:
        written = await learner.save(draft)
        await snapshot(draft)
        await asyncio.to_thread(checkpoint.commit, draft, folder, written)
    except BaseException:
        checkpoint.discard(draft)
        raise


class Saver:
    """Saves every few steps and at the end, and keeps the newest few checkpoints."""

    def __init__(
        self,
        config: CheckpointConfig,
        *,
        learner: Savable,
        folder: Path,
        num_steps: int,
        snapshot: Callable[[int], Snapshot],
    ) -> None:
        """`snapshot`: of the moment that it is called at, with so many steps done."""
        self._config = config
        self._learner = learner
        self._folder = folder
        self._num_steps = num_steps
        self._snapshot = snapshot
        self._saved_step: int | None = None
        self._failed = 0

    async def after_step(self, step: int) -> None:
        """Save if it is time. A full disk ends the run only after several failures in a row."""
        every = self._config.every_steps
        if step != self._num_steps and (not every or step % every):
            return
        try:
            await self.save(step)
        except OSError as error:
            self._failed += 1
            logger.error("checkpoint of step %d was not written (%s); older ones are as they were", step, error)
            if self._failed >= MAX_FAILED_SAVES or step == self._num_steps:
                raise

    async def save(self, step: int) -> None:
        """Save now, unless this step is saved already."""
        if self._saved_step == step:
            return
        await save_checkpoint(self._learner, checkpoint.folder_of(self._folder, step), self._snapshot(step))
        checkpoint.prune(self._folder, self._config.keep_last)
        self._saved_step, self._failed = step, 0
