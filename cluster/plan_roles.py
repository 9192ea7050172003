"""Which role of a run gets which processes, and on which devices of which node."""

from collections.abc import Sequence
from dataclasses import dataclass

from algorithms.algorithm import Algorithm
from cluster.plan_machines import Machines
from configs.schema import RlRun, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """Equal processes. `key`: what sets their number. `num_devices`: GPUs of each, where there are any."""

    name: str
    key: str
    num_processes: int
    threads: int
    num_devices: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """One process's place: its node, and its GPUs there (none on CPUs)."""

    role: str
    node: int
    devices: tuple[int, ...] = ()


def roles_of(run: Run, algorithm: Algorithm | None) -> list[Role]:
    """In the order in which they are placed. `algorithm`: the row of an RL run."""
    threads = run.trainer.threads_per_rank
    roles = [Role(name="policy", key="trainer.num_ranks", num_processes=run.trainer.num_ranks, threads=threads)]
    if not isinstance(run, RlRun) or algorithm is None:
        return roles
    beside = {
        "reference": run.reference.num_ranks if algorithm.needs_reference else 0,
        "critic": run.critic.num_ranks if algorithm.needs_critic else 0,
    }
    roles += [
        Role(name=name, key=f"{name}.num_ranks", num_processes=count, threads=threads)
        for name, count in beside.items()
        if count
    ]
    rollout, scoring = run.rollout, run.reward_model
    roles.append(
        Role(
            name="rollout",
            key="rollout.num_workers",
            num_processes=rollout.num_workers,
            threads=rollout.threads_per_worker,
            num_devices=rollout.tensor_parallel_size,
        )
    )
    num_models = sum(spec.model_path is not None for spec in run.rewards)
    if num_models:
        roles.append(
            Role(
                name="reward model",
                key="reward_model.num_replicas",
                num_processes=num_models * scoring.num_replicas * scoring.ranks_per_replica,
                threads=scoring.threads_per_replica,
            )
        )
    return roles


def seats_of(roles: Sequence[Role], machines: Machines) -> list[Seat]:
    """Each process on the first node that has room for it; those that find none are left out."""
    size = machines.gpus_per_node if machines.has_gpus else (machines.num_cpus or 10**6)
    free = [list(range(size)) for _ in range(machines.num_nodes)]
    seats = []
    for role in roles:
        for _ in range(role.num_processes):
            need = role.num_devices if machines.has_gpus else role.threads
            node = next((number for number, left in enumerate(free) if len(left) >= need), None)
            if node is None:
                break
            taken, free[node] = free[node][:need], free[node][need:]
            seats.append(Seat(role=role.name, node=node, devices=tuple(taken) if machines.has_gpus else ()))
    return seats


def missing(roles: Sequence[Role], seats: Sequence[Seat], machines: Machines) -> list[str]:
    """What has no place, with the key to change."""
    what = "GPUs" if machines.has_gpus else "CPU threads"
    complaints = []
    for role in roles:
        placed = sum(seat.role == role.name for seat in seats)
        if placed < role.num_processes:
            needed = sum(r.num_processes * (r.num_devices if machines.has_gpus else r.threads) for r in roles)
            way_out = f"{role.key}={placed}" if placed else f"{role.key} lower, or more nodes"
            complaints.append(
                f"{role.key}={role.num_processes}: {placed} of them find {what} (the run needs {needed}); set {way_out}"
            )
    return complaints
