"""How the policy is sampled: rollout workers, sampling parameters, batch shape, evaluation."""

from typing import Literal

from pydantic import Field, model_validator

from configs.schema.base import Section
from configs.schema.model import Dtype
from configs.schema.placement import PlacementConfig

LoraSync = Literal["merged", "adapter"]
WeightTransport = Literal["store", "broadcast"]


class SamplingConfig(Section):
    """The distribution that responses are drawn from."""

    temperature: float = Field(default=1.0, gt=0, le=10)
    """Logits are divided by this before sampling; the trainer uses the same value."""
    max_response_tokens: int = Field(default=512, ge=1)
    """Longest response, in tokens; longer ones are cut, and marked as cut."""


class AutoscaleConfig(Section):
    """How many rollout workers a run has, by how long the trainer waits for them."""

    min_workers: int = Field(default=1, ge=1)
    """Never fewer."""
    max_workers: int = Field(ge=1)
    """Never more; a local cluster has room for so many."""
    wait_share: float = Field(default=0.3, gt=0, lt=1)
    """One worker more when the trainer waits for samples for more than this part of a step."""
    idle_share: float = Field(default=0.5, gt=0, lt=1)
    """One worker less when the workers have nothing to do for more than this part of a step."""
    steps: int = Field(default=3, ge=1)
    """Steps in a row that must agree, and that pass before the next change."""

    @model_validator(mode="after")
    def _has_a_range(self) -> "AutoscaleConfig":
        if self.max_workers < self.min_workers:
            raise ValueError(f"max_workers={self.max_workers} is less than min_workers={self.min_workers}")
        return self


class RolloutConfig(Section):
    """The fleet of vLLM workers."""

    num_workers: int = Field(default=1, ge=1)
    """Rollout workers, one engine each."""
    placement: PlacementConfig = PlacementConfig()
    """Where they are put; strict_pack is not for them, who join and leave one by one."""
    autoscale: AutoscaleConfig | None = None
    """Workers join and leave while the run goes on; none: only when `wutong scale` says so."""
    prompts_per_step: int = Field(default=64, ge=1)
    """Groups that make one training step."""
    group_size: int = Field(default=8, ge=1)
    """Responses sampled for each prompt."""
    sampling: SamplingConfig = SamplingConfig()
    """How responses are drawn."""
    max_staleness: int = Field(default=0, ge=0, le=64)
    """Policy versions that may lie between sampling and training; 0: strictly on-policy."""
    colocated: bool = False
    """Engines share the GPUs of the trainer's ranks and sleep while these train (GPU only)."""
    weight_update: Literal["in_flight", "between_requests"] = "in_flight"
    """New weights reach an engine at once, and its sequences go on under them; or when it has finished what it has."""
    recompute_kv: bool = True
    """Running sequences' keys and values are computed anew after an update in flight; false: old ones stay, cheaper."""
    dtype: Dtype = "float32"
    """Precision of the engine's weights; should equal model.dtype."""
    lora_sync: LoraSync = "merged"
    """What is sent after an update with model.lora: all weights, adapters merged into them, or the adapter alone."""
    weight_transport: WeightTransport = "store"
    """By way of host memory and Ray's object store; or from device to device (NCCL, between CPUs gloo), all at once."""
    max_running_sequences: int = Field(default=512, ge=1)
    """Sequences that one engine decodes at the same time."""
    tensor_parallel_size: int = Field(default=1, ge=1)
    """Devices of one engine, all on one node; each has a part of every layer. Not run on a GPU yet."""
    gpu_memory_utilization: float = Field(default=0.85, gt=0, le=1)
    """Share of the device's memory for the engine (GPU only)."""
    kv_cache_gib: int = Field(default=1, ge=1)
    """Host memory for the KV cache of each device of an engine (CPU only)."""
    cuda_graphs: bool = True
    """Capture CUDA graphs (GPU only): slower start, faster decoding."""
    threads_per_worker: int | None = Field(default=None, ge=1)
    """CPU threads of each device of an engine; none: its share of the cores, without GPUs on a cluster of one's own."""
    start_timeout_seconds: float = Field(default=600, gt=0)
    """Longest time that an engine may take to start."""
    progress_timeout_seconds: float = Field(default=300, gt=0)
    """An engine with work that makes no token for this long is taken for hung."""
    slow_worker_factor: float = Field(default=3.0, ge=1.5)
    """A worker whose engine takes so many times the others' seconds a step is slow: it is named, and given less."""
    backup_leases: bool = True
    """Once nothing else waits, workers that are free sample what slow ones still hold; the first one counts."""
    max_restarts: int = Field(default=3, ge=0)
    """How often one worker is replaced before it is given up."""

    @property
    def most_workers(self) -> int:
        """To which a run may scale itself."""
        return self.num_workers if self.autoscale is None else max(self.num_workers, self.autoscale.max_workers)

    @property
    def cores_per_worker(self) -> int:
        """What one worker takes of its node's CPU."""
        return (self.threads_per_worker or 1) * self.tensor_parallel_size

    @model_validator(mode="after")
    def _has_devices(self) -> "RolloutConfig":
        if self.tensor_parallel_size > 1 and self.lora_sync == "adapter":
            raise ValueError(
                f"tensor_parallel_size={self.tensor_parallel_size} with lora_sync=adapter: an engine on several "
                "devices takes no adapters yet; set lora_sync=merged, or tensor_parallel_size=1"
            )
        return self

    @model_validator(mode="after")
    def _has_a_way(self) -> "RolloutConfig":
        if self.weight_transport == "broadcast" and self.colocated:
            raise ValueError(
                "weight_transport=broadcast with colocated=true: a rank and an engine on one GPU can't be in one "
                "group of NCCL; set weight_transport=store"
            )
        if self.weight_transport == "broadcast" and self.lora_sync == "adapter":
            raise ValueError(
                "weight_transport=broadcast with lora_sync=adapter: an adapter is small, and goes by way of the "
                "store; set weight_transport=store, or lora_sync=merged"
            )
        return self

    @model_validator(mode="after")
    def _takes_turns(self) -> "RolloutConfig":
        if self.colocated and self.max_staleness:
            raise ValueError(
                f"colocated=true with max_staleness={self.max_staleness}: engines and ranks take turns on the same "
                "GPUs, so that no sample is older than the policy; set max_staleness=0"
            )
        if self.colocated and self.autoscale is not None:
            raise ValueError(
                "colocated=true with autoscale: each rank's GPU has one engine, no more and no fewer; leave one out"
            )
        if self.colocated and (self.placement != PlacementConfig() or self.tensor_parallel_size > 1):
            raise ValueError(
                "colocated=true: engines are where the trainer's ranks are, one on each GPU; leave out placement and "
                "tensor_parallel_size, and set trainer.placement"
            )
        return self

    @model_validator(mode="after")
    def _workers_find_places(self) -> "RolloutConfig":
        placement, share = self.placement, self.placement.gpu_share
        if placement.strategy == "strict_pack":
            raise ValueError(
                "placement.strategy=strict_pack: workers join and leave one by one; use pack, or a label of the node"
            )
        if share < 1 and self.tensor_parallel_size > 1:
            raise ValueError(
                f"placement.gpu_share={share:g} with tensor_parallel_size={self.tensor_parallel_size}: an engine on "
                "several GPUs takes them whole; set one of the two to 1"
            )
        if share < 1 and self.gpu_memory_utilization > share:
            raise ValueError(
                f"gpu_memory_utilization={self.gpu_memory_utilization:g} with placement.gpu_share={share:g}: the "
                f"engine would take memory of its neighbours; set gpu_memory_utilization={share:g} or less"
            )
        return self


class EvaluationConfig(Section):
    """Held-out evaluation on the live rollout workers."""

    every_steps: int = Field(default=0, ge=0)
    """Evaluate every so many steps; 0: only before the first and after the last."""
    num_prompts: int = Field(default=512, ge=1)
    """Held-out prompts to use (all, if there are fewer)."""
    samples_per_prompt: int = Field(default=1, ge=1)
    """1: greedy decoding; more: sampled at the training temperature, with pass@k."""
