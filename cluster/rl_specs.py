"""What each part of a reinforcement learning run is told, from the recipe."""

import os

from actors.messages import RolloutSpec
from algorithms.algorithm import Algorithm
from cluster.rl_checks import check_objective
from configs.digest import config_digest
from configs.schema import ClusterConfig, GuardConfig, RlRun, RolloutConfig, SamplesStage
from experience.records import Sampling
from trainers.credit import BatchShape
from trainers.learner import LearnerSpec
from trainers.loop import Schedule
from trainers.policy import PolicyObjective


def policy_objective(run: RlRun, algorithm: Algorithm) -> PolicyObjective:
    """What the ranks train the policy for. ValueError for settings that go with another algorithm."""
    check_objective(run, algorithm)
    return PolicyObjective(
        algorithm=algorithm,
        temperature=run.rollout.sampling.temperature,
        max_response_tokens=run.rollout.sampling.max_response_tokens,
    )


def learner_spec(run: RlRun, objective: PolicyObjective, *, use_gpu: bool) -> LearnerSpec:
    """What every rank is told."""
    assert run.model.path is not None
    algorithm, updates = objective.algorithm, run.algorithm.updates_per_batch
    return LearnerSpec(
        model=run.model,
        tokenizer_path=run.model.path,
        seed=run.seed,
        optimizer=run.optimizer,
        trainer=run.trainer,
        objective=objective,
        total_updates=(run.num_steps - algorithm.critic_warmup_steps) * updates,
        critic=run.critic if algorithm.needs_critic else None,
        critic_warmup_updates=algorithm.critic_warmup_steps * updates,
        updates_per_batch=updates,
        reference=run.reference,
        lora_sync=run.rollout.lora_sync,
        weight_transport=run.rollout.weight_transport,
        config_digest=config_digest(run),
        measures_kl=run.measures_kl,
        use_gpu=use_gpu,
    )


def rollout_spec(
    run: RlRun | SamplesStage, *, max_sequence_tokens: int, stop_token_ids: tuple[int, ...], use_gpu: bool
) -> RolloutSpec:
    """What every rollout worker is told."""
    assert run.model.path is not None
    return RolloutSpec(
        model_path=run.model.path,
        config=run.rollout,
        max_model_len=max_sequence_tokens,
        stop_token_ids=stop_token_ids,
        use_gpu=use_gpu,
        trust_remote_code=run.model.trust_remote_code,
        adapter=run.model.lora if run.rollout.lora_sync == "adapter" else None,
        threads=engine_threads(run.rollout, run.cluster, use_gpu=use_gpu),
    )


def engine_threads(rollout: RolloutConfig, cluster: ClusterConfig, *, use_gpu: bool) -> int:
    """What an engine computes with on a CPU. Ranks and engines of one machine leave each other idle cores."""
    if rollout.threads_per_worker is not None:
        return rollout.threads_per_worker
    if use_gpu or cluster.address is not None:
        return 1
    return max(1, len(os.sched_getaffinity(0)) // (rollout.most_workers * rollout.tensor_parallel_size))


def schedule(run: RlRun, algorithm: Algorithm, first_step: int) -> Schedule:
    """The loop's steps, after the `first_step` that an earlier run has done."""
    prompts_per_step = run.rollout.prompts_per_step
    return Schedule(
        first_step=first_step,
        num_steps=run.num_steps,
        prompts_per_step=prompts_per_step,
        max_dropped_groups=int((algorithm.dynamic_sampling_limit - 1) * prompts_per_step),
        max_staleness=run.rollout.max_staleness,
        sampling=sampling(run, run.rollout.group_size, run.rollout.sampling.temperature),
        max_error_rate=run.reward_pool.max_error_rate,
        stop_after_equal_steps=run.reward_pool.stop_after_equal_steps,
        greedy=sampling(run, 1, 0.0) if algorithm.needs_greedy else None,
        reference_refresh_steps=algorithm.reference_refresh_steps,
    )


def held_out_sampling(run: RlRun) -> Sampling:
    """Greedy for a single sample, else at the training temperature."""
    count = run.evaluation.samples_per_prompt
    return sampling(run, count, run.rollout.sampling.temperature if count > 1 else 0.0)


def guard_sampling(run: RlRun, guard: GuardConfig) -> Sampling:
    """At the training temperature: the divergence from the reference is that of what is sampled in training."""
    return sampling(run, guard.samples_per_prompt, run.rollout.sampling.temperature)


def sampling(run: RlRun, num_samples: int, temperature: float) -> Sampling:
    """How one group is drawn."""
    return Sampling(
        num_samples=num_samples,
        max_response_tokens=run.rollout.sampling.max_response_tokens,
        temperature=temperature,
        seed=run.seed,
    )


def batch_shape(run: RlRun) -> BatchShape:
    """How a step is cut for the learner."""
    return BatchShape(
        mini_batches=run.algorithm.mini_batches,
        epochs=run.algorithm.epochs,
        num_ranks=run.trainer.num_data_ranks,
        tokens_per_micro_batch=run.trainer.tokens_per_micro_batch,
        max_response_tokens=run.rollout.sampling.max_response_tokens,
    )
