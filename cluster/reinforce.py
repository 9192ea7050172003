"""The stage of reinforcement learning: its parts made, joined and run to the end."""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from actors.fleet import FleetFailed, RolloutFleet
from actors.messages import RolloutSpec
from actors.trainer import TrainerGroup
from algorithms.algorithm import Algorithm
from algorithms.table import resolve
from cluster.folder import RunFolder
from cluster.inputs import prompt_tables, reward_examples, sequence_limit, trained_tokenizer
from cluster.learned_rewards import LearnedRewards
from cluster.meters import open_meter
from cluster.outcome import Outcome
from cluster.rl_observer import HeldOut, RlObserver
from cluster.session import ray_session
from cluster.signals import stop_on_signal
from configs.digest import config_digest
from configs.schema import RlRun
from experience.prompts import PromptStream, eval_prompts
from experience.records import Prompt, Sampling
from experience.tokenizer import stop_token_ids
from rewards.pool import RewardPool
from rewards.remote import RewardOutage
from trainers.credit import BatchShape, CreditAssigner
from trainers.learner import LearnerSpec
from trainers.loop import Loop, Roles, Schedule
from trainers.model_files import check_model
from trainers.policy import PolicyObjective
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


def read_inputs(run: RlRun, folder: RunFolder) -> Inputs:
    """Everything that can be wrong with a recipe is found here; ValueError says what."""
    if run.model.path is None:
        raise ValueError("model.new: reinforcement learning starts from a checkpoint; set model.path")
    algorithm = resolve(run.algorithm)
    objective = _objective(run, algorithm)
    if run.rollout.max_staleness and algorithm.correction == "none":
        logger.warning(
            "rollout.max_staleness=%d with algorithm.correction=none: stale samples count as fresh ones; "
            "algorithm.correction=tis weighs them",
            run.rollout.max_staleness,
        )
    check_model(run.model)
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
    )


def _objective(run: RlRun, algorithm: Algorithm) -> PolicyObjective:
    """ValueError for rows of the table that need a part which does not exist yet."""
    if algorithm.needs_greedy:
        raise ValueError(
            f"algorithm.name={algorithm.name!r} compares with a greedy response, which is not sampled yet; choose rloo"
        )
    return PolicyObjective(
        algorithm=algorithm,
        temperature=run.rollout.sampling.temperature,
        max_response_tokens=run.rollout.sampling.max_response_tokens,
    )


async def train(run: RlRun, inputs: Inputs, folder: RunFolder, resume_from: Path | None) -> Outcome:
    """Train to the last step, or until a signal."""
    async with AsyncExitStack() as stack:
        learned = LearnedRewards(run.rewards, run.reward_model)
        pool = RewardPool(run.rewards, run.reward_pool, scorers=learned.fleets)
        stack.callback(pool.close)
        pool.start(reward_examples(inputs.prompts.at(0, 2)))
        stack.enter_context(ray_session(run.cluster, num_cpus=_num_cpus(run) + learned.num_cpus))
        use_gpu = ray.cluster_resources().get("GPU", 0) > 0
        fleet = RolloutFleet(_rollout_spec(run, inputs, use_gpu))
        stack.push_async_callback(fleet.close)
        stack.push_async_callback(learned.close)
        learner, *_ = await asyncio.gather(
            TrainerGroup.start(_learner_spec(run, inputs, use_gpu)), fleet.start(), learned.start(use_gpu=use_gpu)
        )
        stack.callback(learner.close)
        state = await learner.load(resume_from) if resume_from else {}
        roles = Roles(prompts=inputs.prompts, rollouts=fleet, rewards=pool, learner=learner)
        return await _train(run, inputs, folder, roles, state)


def _learner_spec(run: RlRun, inputs: Inputs, use_gpu: bool) -> LearnerSpec:
    assert run.model.path is not None
    return LearnerSpec(
        model=run.model,
        tokenizer_path=run.model.path,
        seed=run.seed,
        optimizer=run.optimizer,
        trainer=run.trainer,
        objective=inputs.objective,
        total_updates=run.num_steps * run.algorithm.mini_batches * run.algorithm.epochs,
        config_digest=config_digest(run),
        use_gpu=use_gpu,
    )


def _rollout_spec(run: RlRun, inputs: Inputs, use_gpu: bool) -> RolloutSpec:
    assert run.model.path is not None
    return RolloutSpec(
        model_path=run.model.path,
        config=run.rollout,
        max_model_len=inputs.max_sequence_tokens,
        stop_token_ids=stop_token_ids(inputs.tokenizer),
        use_gpu=use_gpu,
        trust_remote_code=run.model.trust_remote_code,
    )


async def _train(run: RlRun, inputs: Inputs, folder: RunFolder, roles: Roles, state: Mapping[str, Any]) -> Outcome:
    meter = open_meter(run, folder, state.get("step", 0))
    assigner = CreditAssigner(inputs.algorithm, _batch_shape(run))
    loop = Loop(schedule=_schedule(run, inputs, state), roles=roles, assigner=assigner, meter=meter)
    saver = Saver(
        run.checkpoint,
        learner=roles.learner,
        folder=folder.checkpoints,
        num_steps=run.num_steps,
        state=lambda: {**loop.state(), "assigner": assigner.state()},
    )
    if state:
        assigner.restore(state["assigner"])
    held_out = _held_out(run, inputs)
    observer = RlObserver(run, roles=roles, meter=meter, folder=folder, held_out=held_out, saver=saver)
    with stop_on_signal(loop.stop):
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


def _schedule(run: RlRun, inputs: Inputs, state: Mapping[str, Any]) -> Schedule:
    """`state`: what a checkpoint holds; empty for a new run."""
    prompts_per_step = run.rollout.prompts_per_step
    return Schedule(
        first_step=state.get("step", 0),
        num_steps=run.num_steps,
        first_prompt=state.get("cursor", 0),
        prompts_per_step=prompts_per_step,
        max_dropped_groups=int((inputs.algorithm.dynamic_sampling_limit - 1) * prompts_per_step),
        max_staleness=run.rollout.max_staleness,
        sampling=_sampling(run, run.rollout.group_size, run.rollout.sampling.temperature),
        max_error_rate=run.reward_pool.max_error_rate,
    )


def _held_out(run: RlRun, inputs: Inputs) -> HeldOut:
    """Greedy for a single sample, else at the training temperature."""
    count = run.evaluation.samples_per_prompt
    temperature = run.rollout.sampling.temperature if count > 1 else 0.0
    return HeldOut(prompts=inputs.held_out, sampling=_sampling(run, count, temperature))


def _sampling(run: RlRun, num_samples: int, temperature: float) -> Sampling:
    return Sampling(
        num_samples=num_samples,
        max_response_tokens=run.rollout.sampling.max_response_tokens,
        temperature=temperature,
        seed=run.seed,
    )


def _batch_shape(run: RlRun) -> BatchShape:
    return BatchShape(
        mini_batches=run.algorithm.mini_batches,
        epochs=run.algorithm.epochs,
        num_ranks=run.trainer.num_ranks,
        tokens_per_micro_batch=run.trainer.tokens_per_micro_batch,
        max_response_tokens=run.rollout.sampling.max_response_tokens,
    )


def _num_cpus(run: RlRun) -> int:
    trainer = run.trainer.num_ranks * run.trainer.threads_per_rank
    return trainer + run.rollout.num_workers * run.rollout.threads_per_worker
