"""What every rank of a learner is told at birth."""

from dataclasses import dataclass

from configs.schema.model import ModelConfig
from configs.schema.training import OptimizerConfig, TrainerConfig
from trainers.objective import Objective


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerSpec:
    """All ranks get the same.

    `tokenizer_path`: the folder that the tokenizer is loaded from; a new model's vocabulary is the tokenizer's.
    `total_updates`: optimiser steps of the whole run, for the learning-rate schedule.
    `config_digest`: names the run's config in its checkpoints.
    """

    model: ModelConfig
    tokenizer_path: str
    seed: int
    optimizer: OptimizerConfig
    trainer: TrainerConfig
    objective: Objective
    total_updates: int
    config_digest: str = ""
    use_gpu: bool = False
