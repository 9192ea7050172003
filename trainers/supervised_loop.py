"""The loop of pre-training and supervised fine-tuning: the next batch is made while this one is learned."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

from experience.records import Batch
from metrics.meter import Meter
from metrics.waits import waited


class Imitator(Protocol):
    """What the loop needs of the learner."""

    async def update(self, batch: Batch) -> Mapping[str, float]:
        """One optimiser step. Returns metrics by name."""
        ...


class StepObserver(Protocol):
    """What happens after each step besides training: logging, evaluation, checkpoints."""

    async def after_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Step `step` is done (1 is the first); the observer ends the meter's step when it has done its part."""
        ...


class SupervisedLoop:
    """Steps from `first_step` to `num_steps`. `make_batch(step)` is a pure function, so a resume repeats nothing."""

    def __init__(self, *, learner: Imitator, make_batch: Callable[[int], Batch], meter: Meter) -> None:
        self._learner = learner
        self._make_batch = make_batch
        self._meter = meter
        self._is_stopping = False
        self.step = 0  # steps done

    def stop(self) -> None:
        """Finish the step that runs, then end."""
        self._is_stopping = True

    async def run(self, observer: StepObserver, *, first_step: int, num_steps: int) -> int:
        """Train; returns the steps done in all."""
        self.step = first_step
        upcoming = asyncio.create_task(asyncio.to_thread(self._make_batch, first_step))
        for step in range(first_step, num_steps):
            self._meter.begin_step()
            with self._meter.phase("data"):
                batch = await waited(upcoming, what=f"the batch of step {step + 1}", owner="data")
            upcoming = asyncio.create_task(asyncio.to_thread(self._make_batch, step + 1))
            with self._meter.phase("train"):
                metrics = await self._learner.update(batch)
            self.step = step + 1
            await observer.after_step(self.step, metrics)
            if self._is_stopping:
                break
        await waited(upcoming, what="a batch that is not needed", owner="data")
        return self.step
