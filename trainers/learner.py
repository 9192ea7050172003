"""What every rank of a learner is told at birth."""

from dataclasses import dataclass, field

from configs.schema.model import ModelConfig
from configs.schema.rollout import LoraSync, WeightTransport
from configs.schema.training import CriticConfig, OptimizerConfig, ReferenceConfig, TrainerConfig
from trainers.objective import Objective
from trainers.policy import PolicyObjective


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerSpec:
    """All ranks get the same.

    `tokenizer_path`: the folder that the tokenizer is loaded from; a new model's vocabulary is the tokenizer's.
    `total_updates`: optimiser steps of the whole run, for the learning-rate schedule; `critic_warmup_updates`:
    those that the critic takes besides. `updates_per_batch`: those on each batch.
    `lora_sync`: what is published, where adapters are trained.
    `config_digest`: names the run's config in its checkpoints. `measures_kl`: a reference is held, also where the
    algorithm has none, for `Learner.divergences`.
    """

    model: ModelConfig
    tokenizer_path: str
    seed: int
    optimizer: OptimizerConfig
    trainer: TrainerConfig
    objective: Objective | PolicyObjective
    total_updates: int
    critic: CriticConfig | None = None
    critic_warmup_updates: int = 0
    updates_per_batch: int = 1
    reference: ReferenceConfig = field(default_factory=ReferenceConfig)
    config_digest: str = ""
    measures_kl: bool = False
    lora_sync: LoraSync = "merged"
    weight_transport: WeightTransport = "store"
    use_gpu: bool = False
