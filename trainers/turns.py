"""Rollout workers and learner on the same devices: one of them has these at a time.

    sample ──► score ──► │ sleep, reload ──► train ──► publish, offload ──► load │ ──► evaluate, sample ...
    the workers' turn    │                  the learner's turn                   │     the workers' turn

The loop and its observers see the same roles as ever; each takes its turn when it is asked for something. A save
finds the learner away and takes the devices back for it; whoever samples next gives them on.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from experience.columns import Place
from experience.records import Batch, BlockHandle, Prompt, Sampling, TokenBlock, Trajectory, Weights
from trainers.checkpoint import Written
from trainers.roles import Learner, Rollouts


class SleepingRollouts(Rollouts, Protocol):
    """Rollout workers that can leave their devices."""

    async def sleep(self) -> None:
        """Leave the devices' memory to others until the next `load`."""
        ...


class MovableLearner(Learner, Protocol):
    """A learner that can leave its devices but for the weights. Both methods do nothing where it is done."""

    async def offload(self) -> None:
        """Leave the devices' memory to others. Weights can be published all the same."""
        ...

    async def reload(self) -> None:
        """Take it back; before anything but publishing."""
        ...


class Turns:
    """Whose turn it is: the learner's at first, while the workers sleep and have no weights yet."""

    def __init__(self, rollouts: SleepingRollouts, learner: MovableLearner) -> None:
        self._rollouts, self._learner = rollouts, learner
        self._is_learners = True
        self._weights: Weights | None = None
        self._one_at_a_time = asyncio.Lock()
        self._seconds = 0.0

    @asynccontextmanager
    async def learners(self) -> AsyncIterator[None]:
        """The learner has the devices inside, and nobody takes them from it."""
        async with self._one_at_a_time:
            if not self._is_learners:
                started = time.monotonic()
                await self._rollouts.sleep()
                await self._learner.reload()
                self._is_learners = True
                self._seconds += time.monotonic() - started
            yield

    async def samplers(self, weights: Weights | None = None) -> None:
        """The workers have the devices and these weights, or those that they had last."""
        async with self._one_at_a_time:
            if weights is None and not self._is_learners:
                return
            self._weights = weights or self._weights
            assert self._weights is not None, "nothing is sampled before the first weights"
            started = time.monotonic()
            await self._learner.offload()
            self._is_learners = False
            self._seconds += time.monotonic() - started
            await self._rollouts.load(self._weights)

    def take_seconds(self) -> float:
        """How long the devices changed hands since the last call, but for loading weights."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds


class TurnTakingRollouts:
    """Rollout workers (trainers/roles.py) that have the devices when they are asked to sample."""

    def __init__(self, rollouts: SleepingRollouts, turns: Turns) -> None:
        self._rollouts, self._turns = rollouts, turns

    async def generate(self, prompt: Prompt, sampling: Sampling) -> tuple[Trajectory, ...]:
        """See Rollouts."""
        await self._turns.samplers()
        return await self._rollouts.generate(prompt, sampling)

    async def load(self, weights: Weights) -> None:
        """See Rollouts."""
        await self._turns.samplers(weights)

    def metrics(self) -> Mapping[str, float]:
        """See Rollouts."""
        return {**self._rollouts.metrics(), "time/turns": self._turns.take_seconds()}

    async def block(self, handle: BlockHandle) -> TokenBlock:
        """See Rollouts."""
        return await self._rollouts.block(handle)


class TurnTakingLearner:
    """A learner (trainers/roles.py) that has the devices for all but publishing."""

    def __init__(self, learner: MovableLearner, turns: Turns) -> None:
        self._learner, self._turns = learner, turns

    @property
    def scores_first(self) -> bool:
        """Never ahead of the update: the ranks are away while others sample. See Learner."""
        return False

    async def score(self, batch: Batch) -> None:
        """See Learner."""
        async with self._turns.learners():
            await self._learner.score(batch)

    async def update(self, batch: Batch) -> Mapping[str, float]:
        """See Learner."""
        async with self._turns.learners():
            return await self._learner.update(batch)

    async def publish(self, version: int) -> Weights:
        """See Learner."""
        return await self._learner.publish(version)

    async def divergences(self, batch: Batch) -> Mapping[Place, float]:
        """See Learner."""
        async with self._turns.learners():
            return await self._learner.divergences(batch)

    async def refresh_reference(self) -> None:
        """See Learner."""
        async with self._turns.learners():
            await self._learner.refresh_reference()

    async def save(self, draft: Path) -> Written:
        """See Learner. The states that are saved are those on the devices."""
        async with self._turns.learners():
            return await self._learner.save(draft)

    async def load(self, folder: Path) -> Mapping[str, Any]:
        """See Learner."""
        async with self._turns.learners():
            return await self._learner.load(folder)

    async def export(self, folder: Path) -> None:
        """See Learner."""
        async with self._turns.learners():
            await self._learner.export(folder)
