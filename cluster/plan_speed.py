"""How long a step would take, from sizes and a few stated assumptions: a model of speed, not a measurement."""

from dataclasses import dataclass, replace

from algorithms.algorithm import Algorithm
from cluster.plan_machines import Machines
from cluster.plan_memory import BYTES
from cluster.plan_sizes import ModelSizes
from configs.schema import RlRun
from trainers.costs import BACKWARD_PASSES, forward_flops


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """What no recipe says. Every one is printed with the plan."""

    mfu: float = 0.4  # of the peak, in training
    decode_mfu: float = 0.5  # of the peak, in a decoding step that is bound by arithmetic
    bandwidth_share: float = 0.7  # of the memory's bandwidth, in decoding
    mean_prompt_share: float = 0.5  # of data.max_prompt_tokens
    mean_response_share: float = 0.4  # of rollout.sampling.max_response_tokens
    sync_bytes_per_second: float = 2e9  # of weights, through host memory


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSpeed:
    """One step of a layout, in seconds; tokens and FLOPs are the same in all."""

    name: str
    num_devices: int
    generating: float
    training: float
    syncing: float
    step: float

    @property
    def device_seconds(self) -> float:
        """What a step costs."""
        return self.num_devices * self.step


class SpeedModel:
    """Seconds of generating and training for a recipe on machines."""

    def __init__(
        self,
        run: RlRun,
        algorithm: Algorithm,
        sizes: ModelSizes,
        machines: Machines,
        assumed: Assumptions,
        *,
        cache_tokens: int,
    ) -> None:
        """`cache_tokens`: tokens whose keys and values one engine holds."""
        self._run, self._algorithm, self._sizes = run, algorithm, sizes
        self._machines, self._assumed = machines, assumed
        self._cache_tokens = cache_tokens

    @property
    def num_sequences(self) -> int:
        """Of a step."""
        return self._run.rollout.prompts_per_step * self._run.rollout.group_size

    @property
    def mean_prompt(self) -> int:
        """Tokens."""
        return max(1, round(self._run.data.max_prompt_tokens * self._assumed.mean_prompt_share))

    @property
    def mean_response(self) -> int:
        """Tokens."""
        return max(1, round(self._run.rollout.sampling.max_response_tokens * self._assumed.mean_response_share))

    @property
    def tokens(self) -> int:
        """Prompt and response tokens of a step."""
        return self.num_sequences * (self.mean_prompt + self.mean_response)

    @property
    def training_flops(self) -> float:
        """Of all passes of a step over all ranks: updates, old log-probs, reference, critic."""
        algorithm, updates = self._algorithm, self._run.algorithm.updates_per_batch
        forward = self.num_sequences * forward_flops(
            self._sizes, [self.mean_prompt + self.mean_response], self.mean_response
        )
        passes = (1 + BACKWARD_PASSES) * self._run.algorithm.epochs
        passes += algorithm.needs_old_logprobs(updates) + algorithm.needs_reference
        if algorithm.needs_critic:
            passes += 1 + (1 + BACKWARD_PASSES) * self._run.algorithm.epochs
        return forward * passes

    def training(self, num_ranks: int) -> float:
        """Seconds of a step's updates; recomputed activations take a third more."""
        recomputed = 4 / 3 if self._run.model.gradient_checkpointing else 1.0
        flops_per_second = num_ranks * self._flops_of(self._run.trainer.threads_per_rank) * self._assumed.mfu
        return self.training_flops * recomputed / flops_per_second

    def token_seconds(self, running: int) -> float:
        """One decoding step of an engine with so many sequences: memory or arithmetic, whichever takes longer."""
        rollout = self._run.rollout
        width = BYTES[rollout.dtype]
        context = self.mean_prompt + self.mean_response // 2
        moved = self._sizes.num_active_parameters * width + running * context * self._sizes.cache_bytes(width)
        if self._sizes.num_experts:  # a batch soon meets every expert
            share = min(1.0, running * self._sizes.num_experts_per_tok / self._sizes.num_experts)
            hidden = self._sizes.num_parameters - self._sizes.num_active_parameters
            moved += int(share * hidden * width)
        size = rollout.tensor_parallel_size
        memory = moved / (size * self._machines.bandwidth * self._assumed.bandwidth_share)
        flops = 2 * self._sizes.num_active_parameters * running
        return max(memory, flops / (size * self._flops_of(rollout.threads_per_worker or 1) * self._assumed.decode_mfu))

    @property
    def slots(self) -> int:
        """Sequences that one engine decodes at once, of mean length."""
        fitting = self._cache_tokens // (self.mean_prompt + self.mean_response)
        return max(1, min(self._run.rollout.max_running_sequences, fitting))

    def generating(self, num_workers: int) -> float:
        """Seconds until the last sequence of a step is there, if all begin together; the longest sets the steps."""
        each = -(-self.num_sequences // num_workers)
        running = min(each, self.slots)
        longest = self._run.rollout.sampling.max_response_tokens
        steps = max(-(-each * self.mean_response // running), longest)
        mean_running = max(1, round(each * self.mean_response / steps))
        return steps * self.token_seconds(mean_running)

    @property
    def syncing(self) -> float:
        """Seconds until every worker holds new weights."""
        return self._sizes.num_parameters * BYTES[self._run.model.dtype] / self._assumed.sync_bytes_per_second

    def apart(self, num_workers: int) -> StepSpeed:
        """Trainer and workers on devices of their own: side by side where staleness allows it."""
        num_ranks = self._run.trainer.num_ranks
        generating, training = self.generating(num_workers), self.training(num_ranks)
        together = max(generating, training) if self._run.rollout.max_staleness else generating + training
        devices = num_ranks + num_workers * self._run.rollout.tensor_parallel_size
        return StepSpeed(
            name=f"apart, {num_workers} rollout worker{'s' * (num_workers > 1)}",
            num_devices=devices,
            generating=generating,
            training=training,
            syncing=self.syncing,
            step=together + self.syncing,
        )

    def colocated(self) -> StepSpeed:
        """Every device of both, which are the same ones where the recipe says so, samples and then trains."""
        size = self._run.rollout.tensor_parallel_size
        own = 0 if self._run.rollout.colocated else self._run.rollout.num_workers * size
        devices = self._run.trainer.num_ranks + own
        alone = replace(self.apart(max(1, devices // size)), name="colocated, taking turns", num_devices=devices)
        training = self.training(devices)
        return replace(alone, training=training, step=alone.generating + training + alone.syncing)

    def _flops_of(self, threads: int) -> float:
        """Peak of one device, or of a process's threads."""
        return self._machines.peak_flops * (1 if self._machines.has_gpus else threads)
