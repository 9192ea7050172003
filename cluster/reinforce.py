"""The stage of reinforcement learning: its parts made, joined and run to the end."""

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from actors.fleet import FleetFailed, RolloutFleet
from actors.learner import start_learner
from algorithms.algorithm import Algorithm
from algorithms.table import resolve
from cluster import rl_specs
from cluster.folder import RunFolder
from cluster.inputs import make_mixer, prompt_tables, reward_examples, sequence_limit, trained_tokenizer
from cluster.learned_rewards import LearnedRewards
from cluster.meters import open_meter
from cluster.outcome import Outcome
from cluster.restarts import train_with_restarts
from cluster.rl_observer import HeldOut, RlObserver
from cluster.session import ray_session
from cluster.stopping import Stop
from configs.schema import RlRun
from experience.prompts import PromptStream, eval_prompts
from experience.records import Prompt
from experience.tokenizer import stop_token_ids
from metrics.waits import shown
from rewards.pool import RewardPool
from rewards.remote import RewardOutage
from trainers.credit import CreditAssigner
from trainers.loop import Loop, Roles
from trainers.mixing import Mixer
from trainers.model_files import check_model
from trainers.policy import PolicyObjective
from trainers.roles import Learner
from trainers.saving import Saver

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
    check_model(run.model, sequence_parallel_size=run.trainer.sequence_parallel_size)
    max_sequence_tokens = sequence_limit(run)
    tokenizer = trained_tokenizer(run)
    train, held_out = prompt_tables(run, tokenizer, folder)
    return Inputs(
        algorithm=algorithm,
        objective=objective,
        tokenizer=tokenizer,
        prompts=PromptStream(train, seed=run.seed, shuffle=run.data.shuffle),
        held_out=[] if held_out is None else eval_prompts(held_out, run.evaluation.num_prompts),
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
        stack.enter_context(ray_session(run.cluster, num_cpus=rl_specs.num_cpus(run) + learned.num_cpus))
        use_gpu = ray.cluster_resources().get("GPU", 0) > 0
        fleet = RolloutFleet(
            rl_specs.rollout_spec(
                run,
                max_sequence_tokens=inputs.max_sequence_tokens,
                stop_token_ids=stop_token_ids(inputs.tokenizer),
                use_gpu=use_gpu,
            )
        )
        for name, described in {"rollout fleet": fleet, "reward pool": pool, **learned.fleets}.items():
            stack.enter_context(shown(name, described.__str__))
        stack.push_async_callback(fleet.close)
        stack.push_async_callback(learned.close)
        spec = rl_specs.learner_spec(run, inputs.objective, use_gpu=use_gpu)
        learner, *_ = await asyncio.gather(start_learner(spec), fleet.start(), learned.start(use_gpu=use_gpu))

        def attempt(learner: Learner, state: Mapping[str, Any]) -> Awaitable[Outcome]:
            roles = Roles(prompts=inputs.prompts, rollouts=fleet, rewards=pool, learner=learner)
            return _train(run, inputs, folder, roles, state, stop)

        return await train_with_restarts(
            learner,
            attempt,
            start=lambda: start_learner(spec),
            checkpoints=folder.checkpoints,
            resume_from=resume_from,
            max_restarts=run.trainer.max_restarts,
        )


async def _train(
    run: RlRun, inputs: Inputs, folder: RunFolder, roles: Roles, state: Mapping[str, Any], stop: Stop
) -> Outcome:
    meter = open_meter(run, folder, state.get("step", 0))
    assigner = CreditAssigner(inputs.algorithm, rl_specs.batch_shape(run), inputs.mixer)
    schedule = rl_specs.schedule(run, inputs.algorithm, state)
    loop = Loop(schedule=schedule, roles=roles, assigner=assigner, meter=meter)
    saver = Saver(
        run.checkpoint,
        learner=roles.learner,
        folder=folder.checkpoints,
        num_steps=run.num_steps,
        state=lambda: {**loop.state(), "assigner": assigner.state()},
    )
    if state:
        assigner.restore(state["assigner"])
    held_out = HeldOut(prompts=inputs.held_out, sampling=rl_specs.held_out_sampling(run))
    observer = RlObserver(run, roles=roles, meter=meter, folder=folder, held_out=held_out, saver=saver)
    with stop.ends(loop.stop, loop.give_up):
        try:
            await loop.run(observer, unfinished=state.get("begun", ()))
        except (FleetFailed, RewardOutage) as failure:
            logger.error("stopped after step %d: %s", loop.step, failure)
        finally:
            await observer.close()
            meter.close()
            meter.timeline.write(folder.timeline)
        await saver.save(loop.step)
        is_finished = loop.step == run.num_steps
        if is_finished:
            await roles.learner.export(folder.export)
    evaluations = list(observer.evaluations.values()) or [{}]
    return Outcome(
        step=loop.step,
        is_finished=is_finished,
        folder=folder.path,
        export=folder.export if is_finished else None,
        seconds=meter.timeline.seconds(),
        first=evaluations[0],
        last=evaluations[-1],
    )
