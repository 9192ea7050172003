"""How the weights are updated: optimiser, schedule, ZeRO, micro-batches, checkpoints."""

from typing import Literal

from pydantic import Field, model_validator

from configs.schema.base import Section
from configs.schema.placement import PlacementConfig


class OptimizerConfig(Section):
    """AdamW with a warm-up and a schedule."""

    learning_rate: float = Field(default=1e-6, gt=0, le=1)
    """Peak learning rate."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the first moment."""
    beta2: float = Field(default=0.95, ge=0, lt=1)
    """Decay of the second moment."""
    epsilon: float = Field(default=1e-8, gt=0)
    """Added to the denominator."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this global norm."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps of linear warm-up from zero."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """Course of the learning rate after the warm-up, down to min_learning_rate_ratio at the last step."""
    min_learning_rate_ratio: float = Field(default=0.1, ge=0, le=1)
    """Final learning rate as a share of the peak (cosine and linear)."""


class TrainerConfig(Section):
    """The group of DeepSpeed ZeRO ranks that holds the policy."""

    num_ranks: int = Field(default=1, ge=1)
    """Processes, one device each."""
    placement: PlacementConfig = PlacementConfig()
    """Where they are put."""
    sequence_parallel_size: int = Field(default=1, ge=1)
    """Neighbouring ranks that share each micro-batch's tokens (Ulysses)."""
    zero_stage: Literal[0, 1, 2, 3] = 1
    """What is partitioned over the ranks: 1 optimiser states, 2 and gradients, 3 and weights."""
    tokens_per_micro_batch: int = Field(default=4096, ge=16)
    """Token budget of one forward and backward pass on one rank; a longer sequence is refused at start."""
    offload_optimizer: bool = False
    """Keep the optimiser states in host memory (GPU only)."""
    offload_parameters: bool = False
    """Keep the weights in host memory between uses (ZeRO-3 on a GPU only)."""
    threads_per_rank: int = Field(default=1, ge=1)
    """CPU threads of one rank."""
    peak_tflops: float | None = Field(default=None, gt=0)
    """What one device can do at best, for throughput/mfu; none: by its name, where that is known."""
    collective_timeout_seconds: float = Field(default=600, gt=0)
    """A collective that waits longer than this means a lost rank, and ends the group."""
    max_bad_steps: int = Field(default=3, ge=0)
    """Steps in a row whose loss or gradients are not finite: they are skipped; one more ends the run."""
    max_restarts: int = Field(default=3, ge=0)
    """How often new ranks take the place of lost ones, from the newest checkpoint on, before the run stops."""

    @model_validator(mode="after")
    def _ranks_divide(self) -> "TrainerConfig":
        ranks, size = self.num_ranks, self.sequence_parallel_size
        if ranks % size:
            raise ValueError(
                f"num_ranks={ranks} must be a multiple of sequence_parallel_size={size}; "
                f"nearest: {-(-ranks // size) * size}"
            )
        return self

    @model_validator(mode="after")
    def _ranks_have_devices_of_their_own(self) -> "TrainerConfig":
        self.placement.check_group(self.num_ranks, "num_ranks")
        return self

    @model_validator(mode="after")
    def _stage_offloads(self) -> "TrainerConfig":
        if self.offload_parameters and self.zero_stage != 3:
            raise ValueError(f"offload_parameters=true with zero_stage={self.zero_stage}: only 3 can; set zero_stage=3")
        if self.offload_optimizer and self.zero_stage == 0:
            raise ValueError(
                "offload_optimizer=true with zero_stage=0: nothing is partitioned; set zero_stage=1 or more"
            )
        return self

    @property
    def num_data_ranks(self) -> int:
        """Parts that a batch is dealt in: ranks that share tokens get the same part."""
        return self.num_ranks // self.sequence_parallel_size


class CriticConfig(Section):
    """The value model of algorithms that have one (PPO): its start, its optimiser, its ZeRO engine."""

    path: str | None = None
    """Checkpoint to start from, a causal language model or a reward model; none: the policy's."""
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-5)
    """How its weights move."""
    zero_stage: Literal[0, 1, 2, 3] = 1
    """What is partitioned over the ranks, as trainer.zero_stage."""
    num_ranks: int = Field(default=0, ge=0)
    """Processes of its own, one device each, that work beside the policy's; 0: on the policy's ranks."""
    placement: PlacementConfig = PlacementConfig()
    """Where ranks of its own are put."""

    @model_validator(mode="after")
    def _is_placed(self) -> "CriticConfig":
        check_own_placement(self.placement, self.num_ranks)
        return self


class ReferenceConfig(Section):
    """Where the reference of algorithms with a KL term is held."""

    num_ranks: int = Field(default=0, ge=0)
    """Processes of its own, one device each, that work beside the policy's; 0: on the policy's ranks."""
    zero_stage: Literal[0, 3] = 0
    """Ranks of its own hold the weights whole (0) or partitioned (3); on the policy's, trainer.zero_stage decides."""
    placement: PlacementConfig = PlacementConfig()
    """Where ranks of its own are put."""

    @model_validator(mode="after")
    def _is_placed(self) -> "ReferenceConfig":
        check_own_placement(self.placement, self.num_ranks)
        return self

    @model_validator(mode="after")
    def _has_ranks_to_partition_over(self) -> "ReferenceConfig":
        if self.zero_stage and not self.num_ranks:
            raise ValueError(
                f"zero_stage={self.zero_stage} has no effect with num_ranks=0: the reference is partitioned as "
                "trainer.zero_stage says; set num_ranks, or leave zero_stage out"
            )
        return self


def check_own_placement(placement: PlacementConfig, num_ranks: int) -> None:
    """ValueError for a placement without ranks of its own to place, or one that they can't have."""
    if not num_ranks and placement != PlacementConfig():
        raise ValueError("placement has no effect with num_ranks=0: trainer.placement decides; set num_ranks")
    placement.check_group(num_ranks, "num_ranks")


class CheckpointConfig(Section):
    """When the state of a run is saved."""

    every_steps: int = Field(default=0, ge=0)
    """Save after every so many steps; 0: only at the end."""
    keep_last: int = Field(default=2, ge=1)
    """How many of the newest checkpoints stay on disk."""
    keep_best: int = Field(default=0, ge=0)
    """How many stay besides, the best by best_metric of those that were evaluated at their step; see best.json."""
    best_metric: str | None = None
    """Held-out metric to judge by; none: accuracy where prompts are answered, preference accuracy, or the loss."""
    max_failed_saves: int = Field(default=3, ge=1)
    """Saves in a row that may fail, of a full disk say, before the run stops."""


class LoggingConfig(Section):
    """Where metrics and samples go. `metrics.jsonl` is always written."""

    tensorboard: bool = True
    """Write TensorBoard event files."""
    wandb_project: str | None = None
    """Send metrics to this Weights & Biases project (needs `pip install wandb`)."""
    prometheus: bool = True
    """Publish metrics in Ray's own, which each node of the cluster offers to Prometheus; docs/watching.md."""
    trajectories_every_steps: int = Field(default=1, ge=0)
    """Write the sampled trajectories as Parquet every so many steps; 0: never."""
