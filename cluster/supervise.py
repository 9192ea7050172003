"""The stages that learn from data alone: their parts joined, and run to the end."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import ray

from actors.trainer import TrainerGroup
from cluster.cpus import run_cpus
from cluster.folder import RunFolder
from cluster.keeping import best_rule
from cluster.meters import open_meter
from cluster.outcome import Outcome
from cluster.restarts import Resumed, train_with_restarts
from cluster.resuming import run_snapshot
from cluster.session import ray_session
from cluster.steering import Steering, steered
from cluster.stopping import Stop
from configs.digest import config_digest
from configs.schema import SupervisedRun, TrainerConfig
from experience.packing import plan_block
from experience.records import Batch, TokenBlock
from metrics.meter import Meter
from trainers.bad_steps import BadSteps
from trainers.learner import LearnerSpec
from trainers.model_files import RewardNormalization
from trainers.objective import Objective
from trainers.saving import Saver
from trainers.supervised_loop import SupervisedLoop


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What was read and checked before anything heavy starts.

    `make_batch`: the batch of a step, a pure function. `centred`: the responses whose rewards the export sets to
    a mean of 0, where a reward model is trained; `unit_deviation`: and to a deviation of 1.
    """

    tokenizer_path: str
    objective: Objective
    make_batch: Callable[[int], Batch]
    held_out: Batch | None
    centred: Batch | None = None
    unit_deviation: bool = False


def plan_batch(block: TokenBlock, trainer: TrainerConfig) -> Batch:
    """One optimiser step on every sequence of `block`."""
    plan = plan_block(
        block, number=0, num_ranks=trainer.num_data_ranks, tokens_per_micro_batch=trainer.tokens_per_micro_batch
    )
    return Batch(blocks=(block,), mini_batches=(plan,))


async def train(run: SupervisedRun, inputs: Inputs, folder: RunFolder, resume_from: Path | None, stop: Stop) -> Outcome:
    """Train to the last step, or until it is stopped."""
    with ExitStack() as stack:
        stack.enter_context(ray_session(run.cluster, num_cpus=run_cpus(run)))
        spec = learner_spec(run, inputs)
        async with steered(run, folder, stop) as steering:
            outcome = await train_with_restarts(
                await TrainerGroup.start(spec),
                lambda learner, resumed: _train(run, inputs, folder, learner, resumed, steering),
                start=lambda: TrainerGroup.start(spec),
                checkpoints=folder.checkpoints,
                resume_from=resume_from,
                max_restarts=run.trainer.max_restarts,
            )
            return steering.end(outcome)


class SupervisedObserver:
    """Logs each step, measures on held-out data, saves."""

    def __init__(
        self, run: SupervisedRun, inputs: Inputs, *, learner: TrainerGroup, meter: Meter, saver: Saver, folder: Path
    ) -> None:
        self._run, self._learner, self._meter, self._saver = run, learner, meter, saver
        self._held_out, self._make_batch = inputs.held_out, inputs.make_batch
        self._bad_steps = BadSteps(max_bad_steps=run.trainer.max_bad_steps, folder=folder)
        self.evaluations: dict[int, Mapping[str, float]] = {}

    @property
    def last(self) -> Mapping[str, float]:
        """What was measured last; empty before."""
        return next(reversed(self.evaluations.values()), {})

    async def after_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Step `step` is done (1 is the first)."""
        await self._bad_steps.check(step, metrics, lambda: self._make_batch(step - 1))
        every = self._run.eval_every_steps
        if self._held_out is not None and (step == self._run.num_steps or (every and step % every == 0)):
            with self._meter.phase("evaluate"):
                self.evaluations[step] = await self._learner.evaluate(self._held_out)
            metrics = {**metrics, **self.evaluations[step]}
        with self._meter.phase("save"):
            await self._saver.after_step(step)
        self._meter.log(step, {**metrics, **self._meter.end_step()})
        self._saver.recorded(step)


async def _train(
    run: SupervisedRun,
    inputs: Inputs,
    folder: RunFolder,
    learner: TrainerGroup,
    resumed: Resumed | None,
    steering: Steering,
) -> Outcome:
    first_step = 0 if resumed is None else resumed.step
    meter = open_meter(run, folder, first_step, steering)
    loop = SupervisedLoop(learner=learner, make_batch=inputs.make_batch, meter=meter)
    saver = Saver(
        run.checkpoint,
        learner=learner,
        folder=folder.checkpoints,
        snapshot=lambda step: run_snapshot(run, {"step": step}, observer.evaluations.get(step)),
        best=best_rule(run),
    )
    observer = SupervisedObserver(run, inputs, learner=learner, meter=meter, saver=saver, folder=folder.path)
    steering.follow(lambda: {"step": loop.step}, meter)
    with steering.stop.ends(loop.stop):
        try:
            step = await loop.run(observer, first_step=first_step, num_steps=run.num_steps)
        finally:
            await saver.close()
            meter.close()
            meter.timeline.write(folder.timeline)
        await saver.save(step)
        is_finished = step == run.num_steps
        if is_finished:
            await learner.export(folder.export, await normalization(inputs, learner))
    return Outcome(
        step=step,
        is_finished=is_finished,
        folder=folder.path,
        export=folder.export if is_finished else None,
        seconds=meter.timeline.seconds(),
        last=observer.last,
    )


async def normalization(inputs: Inputs, learner: TrainerGroup) -> RewardNormalization | None:
    """What the trained model's rewards are to become; None for a model that gives none."""
    if inputs.centred is None:
        return None
    measured = await learner.evaluate(inputs.centred)
    std = measured["eval/reward_std"] if inputs.unit_deviation else 1.0
    if not std:
        raise ValueError("normalize=mean_and_deviation: the trained model gives every response the same reward")
    return RewardNormalization(mean=measured["eval/reward_mean"], std=std)


def learner_spec(run: SupervisedRun, inputs: Inputs) -> LearnerSpec:
    """What every rank is told."""
    return LearnerSpec(
        model=run.model,
        tokenizer_path=inputs.tokenizer_path,
        seed=run.seed,
        optimizer=run.optimizer,
        trainer=run.trainer,
        objective=inputs.objective,
        total_updates=run.num_steps,
        config_digest=config_digest(run),
        use_gpu=ray.cluster_resources().get("GPU", 0) > 0,
    )
