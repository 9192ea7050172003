"""A run on paper: who gets which device, what each holds, how long a step takes, and what does not fit.

Pure: from the recipe and the model's config.json. No process is started, and no weight is read.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from algorithms.algorithm import Algorithm
from algorithms.table import resolve
from cluster.plan_advice import device_problems
from cluster.plan_holdings import RolePlan, cache_bytes, longest_sequence, role_plans
from cluster.plan_machines import Machines
from cluster.plan_memory import BYTES
from cluster.plan_roles import roles_of
from cluster.plan_seats import Seat, missing, seats_of
from cluster.plan_sizes import ModelSizes, read_sizes
from cluster.plan_speed import Assumptions, SpeedModel, StepSpeed
from configs.schema import RlRun, Run
from trainers.model_files import check_devices

_GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Speeds:
    """A step of the run as it stands, and of other layouts of the same recipe; `now` may be `colocated`."""

    tokens: int
    training_flops: float
    now: StepSpeed
    colocated: StepSpeed
    more_workers: tuple[StepSpeed, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that is known before anything is started."""

    run: Run
    sizes: ModelSizes
    machines: Machines
    assumed: Assumptions
    longest_sequence: int
    roles: tuple[RolePlan, ...]
    seats: tuple[Seat, ...]
    speeds: Speeds | None
    problems: tuple[str, ...]


def make_plan(run: Run, machines: Machines, assumed: Assumptions | None = None) -> Plan:
    """The plan of a run. ValueError where the model's sizes can't be known."""
    assumed = assumed or Assumptions()
    sizes = read_sizes(run.model)
    algorithm = resolve(run.algorithm) if isinstance(run, RlRun) else None
    roles = roles_of(run, algorithm)
    seats = seats_of(roles, machines)
    plans = role_plans(run, algorithm, sizes, machines, roles)
    problems = [*missing(roles, seats, machines), *device_problems(run, algorithm, sizes, machines, plans)]
    speeds = None
    if isinstance(run, RlRun):
        problems += _uneven_engines(run, sizes)
        assert algorithm is not None
        speeds = _speeds(run, algorithm, sizes, machines, assumed)
    return Plan(
        run=run,
        sizes=sizes,
        machines=machines,
        assumed=assumed,
        longest_sequence=longest_sequence(run),
        roles=tuple(plans),
        seats=tuple(seats),
        speeds=speeds,
        problems=tuple(problems) + tuple(_host_problems(plans, machines)),
    )


def _uneven_engines(run: RlRun, sizes: ModelSizes) -> Iterator[str]:
    try:
        check_devices(sizes.num_attention_heads, sizes.num_key_value_heads, run.rollout.tensor_parallel_size)
    except ValueError as error:
        yield str(error)


def _host_problems(plans: Sequence[RolePlan], machines: Machines) -> Iterator[str]:
    """All processes, spread evenly, against the hosts' memory."""
    if machines.host_memory is None:
        return
    needed = sum(plan.role.num_processes * plan.host_bytes for plan in plans)
    there = machines.num_nodes * machines.host_memory
    if needed > there:
        largest = max(plans, key=lambda plan: plan.role.num_processes * plan.host_bytes)
        yield (
            f"host memory: {needed / _GIB:.1f} GiB are needed, and the nodes have {there / _GIB:.1f}; "
            f"most of it goes to {largest.role.name}: lower {largest.role.key}={largest.role.num_processes}"
        )


def _speeds(run: RlRun, algorithm: Algorithm, sizes: ModelSizes, machines: Machines, assumed: Assumptions) -> Speeds:
    model = speed_model(run, algorithm, sizes, machines, assumed)
    workers, is_colocated = run.rollout.num_workers, run.rollout.colocated
    factors = (1, 2) if is_colocated else (2, 4)
    return Speeds(
        tokens=model.tokens,
        training_flops=model.training_flops,
        now=model.colocated() if is_colocated else model.apart(workers),
        colocated=model.colocated(),
        more_workers=tuple(model.apart(factor * workers) for factor in factors),
    )


def speed_model(
    run: RlRun, algorithm: Algorithm, sizes: ModelSizes, machines: Machines, assumed: Assumptions
) -> SpeedModel:
    """What a plan and a simulation say of seconds."""
    size = run.rollout.tensor_parallel_size
    cache = max(0, cache_bytes(run, sizes, machines)) * size
    tokens = cache // sizes.cache_bytes(BYTES[run.rollout.dtype])
    return SpeedModel(run, algorithm, sizes, machines, assumed, cache_tokens=tokens)
