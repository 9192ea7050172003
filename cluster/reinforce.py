"""The stage of reinforcement learning: its parts made, joined and run to the end."""

import asyncio
import logging
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import ray

from actors.fleet import FleetFailed, RolloutFleet
from actors.garbage import collected_rarely
from actors.learner import PolicyLearner
from algorithms.algorithm import Algorithm
from algorithms.table import resolve
from cluster import rl_specs
from cluster.colocation import arranged
from cluster.cpus import run_cpus
from cluster.folder import RunFolder
from cluster.gold import GoldScorers, GuardedParts, make_guard
from cluster.guarding import Guard
from cluster.inputs import make_mixer, prompt_tables, reward_examples, sequence_limit, trained_tokenizer
from cluster.keeping import best_rule
from cluster.learned_rewards import LearnedRewards
from cluster.meters import open_meter
from cluster.outcome import Outcome
from cluster.restarts import Resumed, train_with_restarts
from cluster.resuming import is_same_recipe, run_snapshot
from cluster.rl_observer import HeldOut, RlObserver
from cluster.session import ray_session
from cluster.steering import Steering, steered
from cluster.stopping import Stop
from cluster.waiting import read_waiting, write_waiting
from configs.schema import RlRun
from experience.prompts import PromptStream, eval_prompts
from experience.records import Prompt
from experience.tokenizer import stop_token_ids
from metrics.meter import Meter
from metrics.waits import shown
from rewards.pool import RewardPool
from rewards.remote import RewardOutage
from trainers.credit import CreditAssigner
from trainers.loop import Loop
from trainers.mixing import Mixer
from trainers.model_files import check_model
from trainers.policy import PolicyObjective
from trainers.roles import Roles
from trainers.saving import Saver, Snapshot

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What was read and checked before anything heavy starts."""

    algorithm: Algorithm
    objective: PolicyObjective
    tokenizer: "PreTrainedTokenizerBase"
    prompts: PromptStream
    held_out: list[Prompt]
    guarded: list[Prompt]
    max_sequence_tokens: int
    mixer: Mixer | None


def read_inputs(run: RlRun, folder: RunFolder) -> Inputs:
    """Everything that can be wrong with a recipe is found here; ValueError says what."""
    if run.model.path is None:
        raise ValueError("model.new: reinforcement learning starts from a checkpoint; set model.path")
    algorithm = resolve(run.algorithm)
    objective = rl_specs.policy_objective(run, algorithm)
    if run.rollout.max_staleness and algorithm.correction == "none":
        logger.warning(
            "rollout.max_staleness=%d with algorithm.correction=none: stale samples count as fresh ones; "
            "algorithm.correction=tis weighs them",
            run.rollout.max_staleness,
        )
    check_model(
        run.model,
        sequence_parallel_size=run.trainer.sequence_parallel_size,
        tensor_parallel_size=run.rollout.tensor_parallel_size,
    )
    max_sequence_tokens = sequence_limit(run)
    tokenizer = trained_tokenizer(run)
    train, held_out = prompt_tables(run, tokenizer, folder)
    guarded = [] if run.guard is None or held_out is None else eval_prompts(held_out, run.guard.num_prompts)
    if run.guard is not None and not run.guard.measure_kl:
        logger.warning("guard.measure_kl=false: guard/kl is not measured, and the report fits no curve to it")
    return Inputs(
        algorithm=algorithm,
        objective=objective,
        tokenizer=tokenizer,
        prompts=PromptStream(train, seed=run.seed, shuffle=run.data.shuffle),
        held_out=[] if held_out is None else eval_prompts(held_out, run.evaluation.num_prompts),
        guarded=guarded,
        max_sequence_tokens=max_sequence_tokens,
        mixer=make_mixer(run, run.mix, tokenizer, folder),
    )


async def train(run: RlRun, inputs: Inputs, folder: RunFolder, resume_from: Path | None, stop: Stop) -> Outcome:
    """Train to the last step, or until it is stopped."""
    async with AsyncExitStack() as stack:
        learned = LearnedRewards(run.rewards, run.reward_model)
        pool = RewardPool(run.rewards, run.reward_pool, scorers=learned.fleets)
        stack.callback(pool.close)
        pool.start(reward_examples(inputs.prompts.at(0, 2)))
        gold = GoldScorers(run)
        stack.callback(gold.close_pool)
        gold.check(reward_examples(inputs.guarded[:2]))
        stack.enter_context(ray_session(run.cluster, num_cpus=run_cpus(run)))
        use_gpu = ray.cluster_resources().get("GPU", 0) > 0
        arrangement = await stack.enter_async_context(arranged(run, use_gpu=use_gpu))
        fleet = RolloutFleet(
            rl_specs.rollout_spec(
                run,
                max_sequence_tokens=inputs.max_sequence_tokens,
                stop_token_ids=stop_token_ids(inputs.tokenizer),
                use_gpu=use_gpu,
            ),
            room=arrangement.room,
        )
        described_by = {"rollout fleet": fleet, "reward pool": pool, **learned.fleets, **gold.described}
        for name, described in described_by.items():
            stack.enter_context(shown(name, described.__str__))
        stack.push_async_callback(fleet.close)
        stack.push_async_callback(learned.close)
        stack.push_async_callback(gold.close)
        spec = rl_specs.learner_spec(run, inputs.objective, use_gpu=use_gpu)
        steering = await stack.enter_async_context(steered(run, folder, stop, fleet, run.rollout.autoscale, pool))
        learner, _, _ = await asyncio.gather(
            arrangement.start(spec, fleet), learned.start(use_gpu=use_gpu), gold.start(use_gpu=use_gpu)
        )

        def attempt(learner: PolicyLearner, resumed: Resumed | None) -> Awaitable[Outcome]:
            roles = replace(arrangement.roles(inputs.prompts, fleet, pool, learner), gold=gold.pool)
            return _train(run, inputs, folder, roles, resumed, steering)

        outcome = await train_with_restarts(
            learner,
            attempt,
            start=lambda: arrangement.restart(spec, fleet),
            checkpoints=folder.checkpoints,
            resume_from=resume_from,
            max_restarts=run.trainer.max_restarts,
        )
        return steering.end(outcome)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """The loop, and who looks on, measures, saves and guards."""

    loop: Loop
    observer: RlObserver
    meter: Meter
    saver: Saver
    guard: Guard | None

    async def close(self) -> None:
        """After the last step; a run's folder is whole then."""
        await self.observer.close()
        await self.saver.close()
        self.meter.close()


async def _train(
    run: RlRun, inputs: Inputs, folder: RunFolder, roles: Roles, resumed: Resumed | None, steering: Steering
) -> Outcome:
    parts = _joined(run, inputs, folder, roles, resumed, steering)
    loop, guard = parts.loop, parts.guard
    with steering.stop.ends(loop.stop, loop.give_up), collected_rarely():
        try:
            await loop.run(parts.observer)
        except (FleetFailed, RewardOutage) as failure:
            logger.error("stopped after step %d: %s", loop.step, failure)
        finally:
            await parts.close()
            parts.meter.timeline.write(folder.timeline)
        if loop.is_between_steps:
            await parts.saver.save(loop.step)
        else:
            logger.warning("step %d was cut short, and is not saved: it will be done again", loop.step + 1)
        is_finished = loop.step == run.num_steps or (guard is not None and guard.has_ended)
        if is_finished:
            if guard is not None:
                await guard.load_end(loop.step)
            await roles.learner.export(folder.export)
    evaluations = list(parts.observer.evaluations.values()) or [{}]
    return Outcome(
        step=loop.step,
        is_finished=is_finished,
        folder=folder.path,
        export=folder.export if is_finished else None,
        seconds=parts.meter.timeline.seconds(),
        first=evaluations[0],
        last=evaluations[-1],
    )


def _joined(
    run: RlRun, inputs: Inputs, folder: RunFolder, roles: Roles, resumed: Resumed | None, steering: Steering
) -> _Parts:
    """All parts, as the checkpoint left them."""
    steps_done = 0 if resumed is None else resumed.step
    meter = open_meter(run, folder, steps_done, steering)
    assigner = CreditAssigner(inputs.algorithm, rl_specs.batch_shape(run), inputs.mixer)
    schedule = rl_specs.schedule(run, inputs.algorithm, steps_done)
    loop = Loop(schedule=schedule, roles=roles, assigner=assigner, meter=meter)
    saver = Saver(
        run.checkpoint,
        learner=roles.learner,
        folder=folder.checkpoints,
        snapshot=lambda step: _snapshot(run, step, loop, assigner, observer, guard),
        best=best_rule(run),
        saved_step=None if resumed is None else resumed.step,
    )
    guard = make_guard(
        run, inputs.guarded, folder, GuardedParts(roles=roles, loop=loop, assigner=assigner, saver=saver)
    )
    if resumed is not None:
        assigner.restore(resumed.state["assigner"])
        # Under another recipe they would have been sampled or scored in another way.
        is_usable = is_same_recipe(resumed.folder, run)
        loop.restore(resumed.state, read_waiting(resumed.folder, roles.prompts) if is_usable else ())
        if guard is not None and "guard" in resumed.state:
            guard.restore(resumed.state["guard"])
    held_out = HeldOut(
        prompts=inputs.held_out, sampling=rl_specs.held_out_sampling(run), patience=loop.patience, guard=guard
    )
    observer = RlObserver(run, roles=roles, meter=meter, folder=folder, held_out=held_out, saver=saver)
    steering.follow(loop.standing, meter)
    return _Parts(loop=loop, observer=observer, meter=meter, saver=saver, guard=guard)


def _snapshot(
    run: RlRun, step: int, loop: Loop, assigner: CreditAssigner, observer: RlObserver, guard: Guard | None
) -> Snapshot:
    """The loop as it is now: sampling goes on while this is written."""
    waiting = loop.waiting
    state = {"step": step, **loop.state(), "assigner": assigner.state()}
    if guard is not None:
        state["guard"] = guard.state.as_json()
    write_state = run_snapshot(run, state, *observer.measured(step))

    async def write(draft: Path) -> None:
        await write_waiting(draft, step, waiting, observer.roles.rollouts)
        await write_state(draft)

    return write
