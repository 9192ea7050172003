"""What a run of reinforcement learning does around its steps: evaluate, save, log, keep the samples."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.folder import RunFolder
from cluster.guarding import Guard
from cluster.waiting import blocks_of
from configs.schema import RlRun
from experience.records import Prompt, Sampling
from experience.store import write_trajectories
from metrics.meter import Meter
from metrics.waits import waited
from trainers.bad_steps import BadSteps
from trainers.credit import Credit
from trainers.evaluation import answer, held_out_by_prompt, held_out_metrics
from trainers.observer import Observer
from trainers.patience import GivenUp, Patience
from trainers.roles import Roles
from trainers.saving import Saver

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """What is evaluated, how it is sampled, for how long, and who looks besides."""

    prompts: Sequence[Prompt]
    sampling: Sampling
    patience: Patience
    guard: Guard | None = None


class RlObserver(Observer):
    """Beside the loop and never in its way: samples are written while the next step is sampled."""

    def __init__(
        self,
        run: RlRun,
        *,
        roles: Roles,
        meter: Meter,
        folder: RunFolder,
        held_out: HeldOut,
        saver: Saver,
    ) -> None:
        self._bad_steps = BadSteps(
            max_bad_steps=run.trainer.max_bad_steps, folder=folder.path, read_block=roles.rollouts.block
        )
        self._num_steps = run.num_steps
        self._evaluate_every = run.evaluation.every_steps
        self._store_every = run.logging.trajectories_every_steps
        self.roles = roles
        self._meter, self._folder = meter, folder
        self._held_out, self._saver, self._guard = held_out, saver, held_out.guard
        self._writing: list[asyncio.Task[None]] = []
        self._one_at_a_time = asyncio.Lock()
        self.evaluations: dict[int, Mapping[str, float]] = {}
        self._by_prompt: tuple[int, Mapping[str, Sequence[float]]] = (-1, {})  # of the newest evaluation, with its step

    async def before_training(self, step: int) -> None:
        """Measure where the run begins; a resumed one has done so."""
        if step == 0:
            await self._evaluate(0)
        if self._guard is not None:
            with self._meter.phase("evaluate"):
                await self._guard.begin(step)
        if step == 0:
            self._meter.log(0, {**self.evaluations.get(0, {}), **self._looked(0)})
            if self._guard is not None and self._guard.may_go_back:  # the best may be where the run began
                await self._saver.save(0)

    async def after_update(self, step: int, credit: Credit, learned: Mapping[str, float]) -> None:
        """TooManyBadSteps when the updates of too many steps in a row were skipped."""
        prompts = [{"id": g.prompt.ordinal, "row": g.prompt.row, "epoch": g.prompt.epoch} for g in credit.groups]
        await self._bad_steps.check(step, learned, lambda: credit.batch, prompts)

    async def after_step(self, step: int) -> None:
        """Look, evaluate and save, when it is time."""
        if self._guard is not None:
            with self._meter.phase("evaluate"):
                await self._guard.after_step(step)
        is_last = step == self._num_steps or (self._guard is not None and self._guard.has_ended)
        if is_last or _is_due(step, self._evaluate_every):
            await self._evaluate(step)
        with self._meter.phase("save"):
            await self._saver.after_step(step)

    def record(self, step: int, credit: Credit, metrics: Mapping[str, float]) -> None:
        """Log the step, and write its samples in the background."""
        self._meter.log(step, {**metrics, **self.evaluations.get(step, {}), **self._looked(step)})
        if _is_due(step, self._store_every):
            self._check_written()
            self._writing.append(asyncio.create_task(self._store(step, credit)))
        else:
            self._saver.recorded(step)

    async def close(self) -> None:
        """Wait for the last samples to be written."""
        await waited(asyncio.gather(*self._writing), what="stored samples", owner="disk")

    async def _evaluate(self, step: int) -> None:
        if not self._held_out.prompts:
            return
        answering = answer(self.roles.rollouts, self.roles.rewards, self._held_out.prompts, self._held_out.sampling)
        try:
            with self._meter.phase("evaluate"):
                answers = await self._held_out.patience.awaits(answering, what=f"the evaluation of step {step}")
        except GivenUp:
            logger.warning("the evaluation of step %d is given up", step)
            return
        self.evaluations[step] = held_out_metrics(answers)
        self._by_prompt = step, held_out_by_prompt(answers)

    def measured(self, step: int) -> tuple[Mapping[str, float], Mapping[str, Sequence[float]]]:
        """What a checkpoint of this step is judged by, and the numbers of each prompt behind it."""
        looked, gold = ({}, {}) if self._guard is None else self._guard.measured(step)
        by_prompt = self._by_prompt[1] if self._by_prompt[0] == step else {}
        return {**self.evaluations.get(step, {}), **looked}, {**by_prompt, **gold}

    def _looked(self, step: int) -> Mapping[str, float]:
        return {} if self._guard is None else self._guard.looked(step)

    def _check_written(self) -> None:
        """A write that failed ends the run at the next step, not at its end."""
        for task in [task for task in self._writing if task.done()]:
            self._writing.remove(task)
            task.result()

    async def _store(self, step: int, credit: Credit) -> None:
        """Write one step's samples; a slow disk holds back the samples, not the training."""
        path = self._folder.trajectories / f"step_{step:06d}.parquet"
        try:
            blocks = await blocks_of(credit.groups, self.roles.rollouts)
            async with self._one_at_a_time:
                written = asyncio.to_thread(write_trajectories, path, step, credit.groups, credit.advantages, blocks)
                await waited(written, what=f"the samples of step {step}", owner="disk")
        finally:
            self._saver.recorded(step)  # also when that failed: the next save must not wait for it for ever


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
