"""Which processes the roles of a run have, and what each takes of its node."""

from dataclasses import dataclass, field

from algorithms.algorithm import Algorithm
from configs.schema import PlacementConfig, RlRun, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """Equal processes. `key`: what sets their number. `num_devices`: GPUs of each, where there are any.

    `group_size`: processes that find room together; 0: each for itself, beside the others of its role. `host`: the
    role in whose places they are, by turns with its processes.
    """

    name: str
    key: str
    num_processes: int
    threads: int
    num_devices: int = 1
    group_size: int = 0
    host: str | None = None
    placement: PlacementConfig = field(default_factory=PlacementConfig)

    @property
    def num_gpus(self) -> float:
        """That one process takes for itself."""
        return 0 if self.host else self.num_devices * self.placement.gpu_share


def roles_of(run: Run, algorithm: Algorithm | None) -> list[Role]:
    """In the order in which they are placed. `algorithm`: the row of an RL run."""
    threads = run.trainer.threads_per_rank
    policy = Role(
        name="policy",
        key="trainer.num_ranks",
        num_processes=run.trainer.num_ranks,
        threads=threads,
        group_size=run.trainer.num_ranks,
        placement=run.trainer.placement,
    )
    roles = [policy]
    if not isinstance(run, RlRun) or algorithm is None:
        return roles
    has_reference = algorithm.needs_reference or run.measures_kl
    beside = {
        "reference": (run.reference.num_ranks if has_reference else 0, run.reference.placement),
        "critic": (run.critic.num_ranks if algorithm.needs_critic else 0, run.critic.placement),
    }
    roles += [
        Role(
            name=name,
            key=f"{name}.num_ranks",
            num_processes=count,
            threads=threads,
            group_size=count,
            placement=placement,
        )
        for name, (count, placement) in beside.items()
        if count
    ]
    return [*roles, _rollout(run), *_reward_models(run)]


def _rollout(run: RlRun) -> Role:
    rollout = run.rollout
    return Role(
        name="rollout",
        key="rollout.num_workers",
        num_processes=rollout.num_workers,
        threads=rollout.cores_per_worker,
        num_devices=rollout.tensor_parallel_size,
        host="policy" if rollout.colocated else None,
        placement=rollout.placement,
    )


def _reward_models(run: RlRun) -> list[Role]:
    scoring, num_models = run.reward_model, sum(spec.model_path is not None for spec in run.all_scorers)
    if not num_models:
        return []
    return [
        Role(
            name="reward model",
            key="reward_model.num_replicas",
            num_processes=num_models * scoring.num_replicas * scoring.ranks_per_replica,
            threads=scoring.threads_per_replica,
            group_size=scoring.ranks_per_replica,
            placement=scoring.placement,
        )
    ]
