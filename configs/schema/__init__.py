"""Every knob of a run, as frozen pydantic sections."""

from configs.schema.algorithm import AlgorithmConfig
from configs.schema.base import Section
from configs.schema.data import (
    ArithmeticConfig,
    CountdownConfig,
    DataConfig,
    MixConfig,
    RankedArithmeticConfig,
    ReasoningGymConfig,
)
from configs.schema.model import LoraConfig, ModelConfig, NewModelConfig, TokenizerConfig
from configs.schema.rewards import RewardModelConfig, RewardPoolConfig, RewardSpec
from configs.schema.rollout import EvaluationConfig, RolloutConfig, SamplingConfig
from configs.schema.run import (
    BaseRun,
    ClusterConfig,
    DpoRun,
    ImitationRun,
    PreferenceRun,
    PretrainRun,
    RewardModelRun,
    RlRun,
    Run,
    SftRun,
    SupervisedRun,
)
from configs.schema.training import (
    CheckpointConfig,
    CriticConfig,
    LoggingConfig,
    OptimizerConfig,
    ReferenceConfig,
    TrainerConfig,
)

__all__ = [
    "AlgorithmConfig",
    "ArithmeticConfig",
    "BaseRun",
    "CheckpointConfig",
    "ClusterConfig",
    "CountdownConfig",
    "CriticConfig",
    "DataConfig",
    "DpoRun",
    "EvaluationConfig",
    "ImitationRun",
    "LoggingConfig",
    "LoraConfig",
    "MixConfig",
    "ModelConfig",
    "NewModelConfig",
    "OptimizerConfig",
    "PreferenceRun",
    "PretrainRun",
    "RankedArithmeticConfig",
    "ReasoningGymConfig",
    "ReferenceConfig",
    "RewardModelConfig",
    "RewardModelRun",
    "RewardPoolConfig",
    "RewardSpec",
    "RlRun",
    "RolloutConfig",
    "Run",
    "SamplingConfig",
    "Section",
    "SftRun",
    "SupervisedRun",
    "TokenizerConfig",
    "TrainerConfig",
]
