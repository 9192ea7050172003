"""How many logical CPUs the processes of a run ask Ray for: arithmetic on the recipe alone."""

from collections.abc import Sequence

from configs.schema import BaseRun, RewardModelConfig, RewardSpec, RlRun


def run_cpus(run: BaseRun) -> int:
    """Of all processes of a run, with all the workers that it may scale itself to."""
    if not isinstance(run, RlRun):
        return run.trainer.num_ranks * run.trainer.threads_per_rank
    gold = () if run.guard is None else run.guard.gold
    rollouts = run.rollout.most_workers * run.rollout.cores_per_worker
    scorers = scorer_cpus(run.rewards, run.reward_model) + scorer_cpus(gold, run.reward_model)
    return learner_cpus(run) + rollouts + scorers


def learner_cpus(run: RlRun) -> int:
    """Of the ranks of policy, reference and critic."""
    num_ranks = run.trainer.num_ranks + run.reference.num_ranks + run.critic.num_ranks
    return num_ranks * run.trainer.threads_per_rank


def scorer_cpus(rewards: Sequence[RewardSpec], config: RewardModelConfig) -> int:
    """Of the reward models among the rewards."""
    num_models = len({spec.label for spec in rewards if spec.model_path is not None})
    return num_models * config.num_replicas * config.ranks_per_replica * config.threads_per_replica
