"""When a run is saved, and what becomes of a save that fails."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from configs.schema import CheckpointConfig
from metrics.waits import waited
from trainers import checkpoint

logger = logging.getLogger(__name__)

MAX_FAILED_SAVES = 3  # in a row; a full disk may be emptied meanwhile


@asynccontextmanager
async def drafted(
    folder: Path, *, world_size: int, config_digest: str, own_ranks: Mapping[str, int] | None = None
) -> AsyncIterator[Path]:
    """A folder to write a checkpoint into: it becomes `folder` when the block ends well, and is dropped else."""
    draft = checkpoint.begin(folder)
    try:
        yield draft
        committed = asyncio.to_thread(
            checkpoint.commit, draft, folder, world_size=world_size, config_digest=config_digest, own_ranks=own_ranks
        )
        await waited(committed, what=f"the checksums of {folder.name}", owner="disk")
    except BaseException:
        checkpoint.discard(draft)
        raise


class Savable(Protocol):
    """Anything that writes a whole checkpoint."""

    def save(self, folder: Path, state: Mapping[str, Any]) -> Awaitable[None]:
        """See `Learner.save`."""
        ...


class Saver:
    """Saves every few steps and at the end, and keeps the newest few checkpoints."""

    def __init__(
        self,
        config: CheckpointConfig,
        *,
        learner: Savable,
        folder: Path,
        num_steps: int,
        state: Callable[[], Mapping[str, Any]],
    ) -> None:
        self._config = config
        self._learner = learner
        self._folder = folder
        self._num_steps = num_steps
        self._state = state
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
        await self._learner.save(checkpoint.folder_of(self._folder, step), {"step": step, **self._state()})
        checkpoint.prune(self._folder, self._config.keep_last)
        self._saved_step, self._failed = step, 0
