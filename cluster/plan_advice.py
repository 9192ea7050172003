"""What does not fit, and which key to change to what: found by trying."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from algorithms.algorithm import Algorithm
from cluster.plan_holdings import RolePlan, longest_sequence, role_plans
from cluster.plan_machines import Machines
from cluster.plan_roles import Role, roles_of
from cluster.plan_sizes import ModelSizes
from configs.schema import RlRun, Run
from trainers.model_files import are_divisible

_GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One key of a section set to another value."""

    section: str
    key: str
    value: object

    def __str__(self) -> str:
        value = str(self.value).lower() if isinstance(self.value, bool) else self.value
        return f"{self.section}.{self.key}={value}"

    def applied(self, run: Run) -> Run:
        """The run with it."""
        part = getattr(run, self.section).model_copy(update={self.key: self.value})
        return run.model_copy(update={self.section: part})


def device_problems(
    run: Run, algorithm: Algorithm | None, sizes: ModelSizes, machines: Machines, plans: Sequence[RolePlan]
) -> Iterator[str]:
    """A line for each role whose device does not hold its peak."""
    for plan in plans:
        if plan.fits:
            continue
        assert plan.capacity is not None
        lead = (
            f"{plan.role.name}: {plan.peak.name} needs {plan.peak.total / _GIB:.1f} GiB, "
            f"and a device gives it {plan.capacity / _GIB:.1f}"
        )
        changes: list[Change] = []
        found = run
        for change in changes_for(run, plan.role, sizes):
            changes = [other for other in changes if other.key != change.key] + [change]
            found = change.applied(found)
            again = role_plans(found, algorithm, sizes, machines, roles_of(found, algorithm))
            if next(other for other in again if other.role.name == plan.role.name).fits:
                yield f"{lead}; set {' '.join(map(str, changes))}"
                break
        else:
            yield f"{lead}, and that is not enough either: {' '.join(map(str, changes))}; larger devices are needed"


def changes_for(run: Run, role: Role, sizes: ModelSizes) -> Iterator[Change]:
    """What saves memory of the role and is not done yet, cheapest first; they add up."""
    if role.name == "rollout":
        assert isinstance(run, RlRun)
        yield from _engine_changes(run, sizes)
    elif role.name == "reward model":
        yield from (Change(section="reward_model", key="ranks_per_replica", value=value) for value in (2, 4, 8))
    else:
        yield from _pass_changes(run)
        yield from (_policy_changes(run) if role.name == "policy" else _beside_changes(role))


def _engine_changes(run: RlRun, sizes: ModelSizes) -> Iterator[Change]:
    if run.rollout.dtype == "float32":
        yield Change(section="rollout", key="dtype", value="bfloat16")
    if run.rollout.colocated:
        shares = (share for share in (0.8, 0.7, 0.6, 0.5) if share < run.rollout.gpu_memory_utilization)
        yield from (Change(section="rollout", key="gpu_memory_utilization", value=share) for share in shares)
    elif run.rollout.gpu_memory_utilization < 0.92:
        yield Change(section="rollout", key="gpu_memory_utilization", value=0.92)
    if run.rollout.colocated or run.rollout.lora_sync == "adapter":  # not together with several devices
        return
    for size in (2, 4, 8):
        if size > run.rollout.tensor_parallel_size and are_divisible(
            sizes.num_attention_heads, sizes.num_key_value_heads, size
        ):
            yield Change(section="rollout", key="tensor_parallel_size", value=size)


def _pass_changes(run: Run) -> Iterator[Change]:
    longest = longest_sequence(run)
    if not run.model.gradient_checkpointing:
        yield Change(section="model", key="gradient_checkpointing", value=True)
    if run.trainer.tokens_per_micro_batch > longest:
        yield Change(section="trainer", key="tokens_per_micro_batch", value=longest)


def _policy_changes(run: Run) -> Iterator[Change]:
    if run.trainer.zero_stage < 3 and run.trainer.num_ranks > 1:
        yield Change(section="trainer", key="zero_stage", value=3)
    if run.model.dtype == "float32":
        yield Change(section="model", key="dtype", value="bfloat16")
    if not run.trainer.offload_optimizer:
        yield Change(section="trainer", key="offload_optimizer", value=True)
    for factor in (2, 4, 8):
        yield Change(section="trainer", key="num_ranks", value=factor * run.trainer.num_ranks)


def _beside_changes(role: Role) -> Iterator[Change]:
    """Of a reference or a critic on ranks of its own."""
    yield Change(section=role.name, key="zero_stage", value=3)
    for factor in (2, 4, 8):
        yield Change(section=role.name, key="num_ranks", value=factor * role.num_processes)
