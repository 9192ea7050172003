"""What each process of a role holds, from the recipe and the sizes of its models."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from algorithms.algorithm import Algorithm
from cluster.plan_machines import Machines
from cluster.plan_memory import BYTES, Pass, Phase, Share, scoring_phase, trained_phases
from cluster.plan_roles import Role
from cluster.plan_sizes import ModelSizes, sizes_at
from configs.schema import DpoRun, PreferenceRun, RlRun, Run, SupervisedRun

_GIB = 2**30
_ENGINE_OVERHEAD = 3 * _GIB // 2  # of a GPU: activations and CUDA graphs of an engine (assumed)
_ALLOCATOR_FACTOR = 1.65  # of tensors, with what malloc keeps: 1.38 to 1.95 measured (benchmarks/plan.md)
_CONTEXT = _GIB  # CUDA's own, of a rank that waits beside an engine (assumed)
_MOVED_BUCKET = 1 << 28  # of weights on their way


@dataclass(frozen=True, slots=True, kw_only=True)
class RolePlan:
    """What each process of a role holds. `capacity`: of its device, in bytes; None: not known."""

    role: Role
    phases: tuple[Phase, ...]
    capacity: int | None
    host_bytes: int
    sequences: int | None = None  # of the longest length that an engine's cache holds

    @property
    def peak(self) -> Phase:
        """The phase that holds the most."""
        return max(self.phases, key=lambda phase: phase.total)

    @property
    def fits(self) -> bool:
        """Whether the device holds the peak, as far as its size is known."""
        return self.capacity is None or self.peak.total <= self.capacity


def longest_sequence(run: Run) -> int:
    """Tokens, prompt and response together."""
    if isinstance(run, RlRun):
        return run.data.max_prompt_tokens + run.rollout.sampling.max_response_tokens
    assert isinstance(run, SupervisedRun)
    return run.max_sequence_tokens


def role_plans(
    run: Run, algorithm: Algorithm | None, sizes: ModelSizes, machines: Machines, roles: Sequence[Role]
) -> list[RolePlan]:
    """What each role's processes hold, in the order of `roles`."""
    rank_planner = _RankPlanner(run, algorithm, sizes, machines)
    planners: dict[str, Callable[[Role], RolePlan]] = {
        "policy": rank_planner.policy,
        "reference": rank_planner.reference,
        "critic": rank_planner.critic,
    }
    if isinstance(run, RlRun):
        planners |= {
            "rollout": lambda role: _engine(run, sizes, machines, role, rank_planner.staying),
            "reward model": lambda role: _reward_models(run, machines, role),
        }
    return [planners[role.name](role) for role in roles]


class _RankPlanner:
    """Plans of the ranks that train or score for training."""

    def __init__(self, run: Run, algorithm: Algorithm | None, sizes: ModelSizes, machines: Machines) -> None:
        self._run, self._algorithm, self._sizes, self._machines = run, algorithm, sizes, machines
        self._needs_reference = isinstance(run, DpoRun) or (algorithm is not None and algorithm.needs_reference)
        self._needs_reference |= isinstance(run, RlRun) and run.measures_kl

    def policy(self, role: Role) -> RolePlan:
        """With the reference and the critic where these have no ranks of their own."""
        run = self._run
        share = self._share(run.trainer.num_ranks, run.trainer.zero_stage, is_trained=True)
        beside: dict[str, int] = {}
        shares = [share]
        if self._has_reference_here:
            reference = self._share(run.trainer.num_ranks, 3 if run.trainer.zero_stage == 3 else 0, is_trained=False)
            beside |= reference.held("reference")
        critic = None
        if isinstance(run, RlRun) and self._needs_critic and not run.critic.num_ranks:
            critic = self._share(run.trainer.num_ranks, run.critic.zero_stage, is_trained=True)
            shares.append(critic)
        policy_held, critic_held = share.held("policy"), critic.held("critic") if critic else {}
        phases = trained_phases("policy", share, self._pass(), self._num_passes, beside | critic_held)
        if critic is not None:
            phases += trained_phases("critic", critic, self._pass(), self._num_passes, beside | policy_held)
        phases.append(scoring_phase("policy and reference", share, self._pass(), beside | policy_held | critic_held))
        return self._plan(role, phases, shares)

    def reference(self, role: Role) -> RolePlan:
        """On ranks of its own."""
        assert isinstance(self._run, RlRun)
        share = self._share(role.num_processes, self._run.reference.zero_stage, is_trained=False)
        return self._plan(role, [scoring_phase("reference", share, self._pass(), share.held("reference"))], [share])

    def critic(self, role: Role) -> RolePlan:
        """On ranks of its own."""
        assert isinstance(self._run, RlRun)
        share = self._share(role.num_processes, self._run.critic.zero_stage, is_trained=True)
        return self._plan(role, trained_phases("critic", share, self._pass(), self._num_passes, {}), [share])

    @property
    def staying(self) -> int:
        """Bytes that stay on a rank's GPU while an engine there samples: weights of the policy and the critic."""
        run = self._run
        if not isinstance(run, RlRun) or not run.rollout.colocated:
            return 0
        held = self._share(run.trainer.num_ranks, run.trainer.zero_stage, is_trained=True).weights
        if self._needs_critic and not run.critic.num_ranks:
            held += self._share(run.trainer.num_ranks, run.critic.zero_stage, is_trained=True).weights
        return held + _CONTEXT

    @property
    def _needs_critic(self) -> bool:
        return self._algorithm is not None and self._algorithm.needs_critic

    @property
    def _has_reference_here(self) -> bool:
        """Adapters need no second model: the reference is the policy without them."""
        own_ranks = isinstance(self._run, RlRun) and self._run.reference.num_ranks > 0
        return self._needs_reference and self._run.model.lora is None and not own_ranks

    def _share(self, num_ranks: int, stage: int, *, is_trained: bool) -> Share:
        trainer, model = self._run.trainer, self._run.model
        whole = self._sizes.num_parameters
        trained = whole if model.lora is None else self._sizes.adapter_parameters(model.lora)
        return Share(
            sizes=self._sizes,
            dtype=model.dtype,
            stage=stage,
            num_ranks=num_ranks,
            num_trained=trained if is_trained else 0,
            has_gpu=self._machines.has_gpus,
            offloads_optimizer=trainer.offload_optimizer and is_trained,
            offloads_parameters=trainer.offload_parameters and stage == 3,
        )

    def _pass(self) -> Pass:
        tokens = -(-self._run.trainer.tokens_per_micro_batch // self._run.trainer.sequence_parallel_size)
        scored = tokens
        if isinstance(self._run, RlRun):
            scored = tokens * self._run.rollout.sampling.max_response_tokens // longest_sequence(self._run)
        return Pass(
            sizes=self._sizes,
            dtype=self._run.model.dtype,
            num_tokens=tokens,
            num_scored=max(1, scored),
            checkpointing=self._run.model.gradient_checkpointing,
            has_gpu=self._machines.has_gpus,
        )

    @property
    def _num_passes(self) -> int:
        """Micro-batches of an update on one rank, when all sequences are as long as may be."""
        run = self._run
        if isinstance(run, RlRun):
            sequences = run.rollout.prompts_per_step * run.rollout.group_size // run.algorithm.mini_batches
        elif isinstance(run, PreferenceRun):
            sequences = 2 * run.comparisons_per_step
        else:
            sequences = getattr(run, "sequences_per_step", 1)
        budget = run.trainer.num_data_ranks * run.trainer.tokens_per_micro_batch
        return -(-sequences * longest_sequence(run) // budget)

    def _plan(self, role: Role, phases: list[Phase], shares: Sequence[Share]) -> RolePlan:
        capacity = _share_of(self._machines.gpu_memory, role)
        offloaded = sum(share.offloaded for share in shares)
        peak = max(phase.total for phase in phases)
        moving = min(_MOVED_BUCKET, shares[0].sizes.num_parameters * BYTES[shares[0].dtype])
        return RolePlan(
            role=role,
            phases=tuple(phases),
            capacity=capacity,
            host_bytes=moving + (offloaded if self._machines.has_gpus else int(_ALLOCATOR_FACTOR * peak)),
        )


def _engine(run: RlRun, sizes: ModelSizes, machines: Machines, role: Role, staying: int) -> RolePlan:
    """A rollout worker: the weights, and a cache that takes what is left; `staying`: of the rank on the same GPU."""
    size, width = run.rollout.tensor_parallel_size, BYTES[run.rollout.dtype]
    weights = sizes.num_parameters * width // size
    cache = cache_bytes(run, sizes, machines)
    overhead = {"engine": _ENGINE_OVERHEAD} if machines.has_gpus else {}
    sequence = longest_sequence(run) * sizes.cache_bytes(width) // size
    capacity = None
    if machines.gpu_memory is not None and machines.has_gpus:
        capacity = machines.gpu_memory
        capacity = capacity if staying else int(capacity * run.rollout.gpu_memory_utilization)
    beside = {"policy and critic beside it": staying} if staying else {}
    least = {"weights": weights, "KV cache": max(cache, sequence), **overhead, **beside}
    # On a CPU the engine multiplies with a packed copy of each weight, made while it is loaded.
    # Several devices take a bucket from a copy that lies in memory beside it.
    buckets = _MOVED_BUCKET * min(2, size)
    on_host = size * weights + buckets if machines.has_gpus else size * (2 * weights + cache)
    return RolePlan(
        role=role,
        phases=(Phase(name="rollout: decoding", parts=least),),
        capacity=capacity,
        host_bytes=on_host,
        sequences=max(0, cache) // sequence,
    )


def cache_bytes(run: RlRun, sizes: ModelSizes, machines: Machines) -> int:
    """KV cache of one device of an engine; below 0 where the weights alone are too large."""
    if not machines.has_gpus:
        return run.rollout.kv_cache_gib * _GIB
    memory = machines.gpu_memory or 80 * _GIB
    weights = sizes.num_parameters * BYTES[run.rollout.dtype] // run.rollout.tensor_parallel_size
    return int(memory * run.rollout.gpu_memory_utilization) - weights - _ENGINE_OVERHEAD


def _reward_models(run: RlRun, machines: Machines, role: Role) -> RolePlan:
    """The largest of the reward models, of which every process holds its part."""
    config = run.reward_model
    paths = [spec.model_path for spec in run.all_scorers if spec.model_path is not None]
    sizes = max((sizes_at(Path(path), f"rewards: model:{path}") for path in paths), key=lambda s: s.num_parameters)
    weights = sizes.num_parameters * BYTES[config.dtype] // config.ranks_per_replica
    work = Pass(
        sizes=sizes,
        dtype=config.dtype,
        num_tokens=config.tokens_per_batch,
        num_scored=1,
        checkpointing=False,
        has_gpu=machines.has_gpus,
    )
    phase = Phase(name="reward model: scoring", parts={"weights": weights, "one layer": work.scoring})
    return RolePlan(role=role, phases=(phase,), capacity=_share_of(machines.gpu_memory, role), host_bytes=phase.total)


def _share_of(memory: int | None, role: Role) -> int | None:
    """What a process may hold of its GPU."""
    return None if memory is None else int(memory * role.placement.gpu_share)
