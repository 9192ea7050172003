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
    WebTextConfig,
)
from configs.schema.guard import GuardConfig
from configs.schema.model import LoraConfig, ModelConfig, NewModelConfig, TokenizerConfig
from configs.schema.placement import PlacementConfig
from configs.schema.rewards import RewardModelConfig, RewardPoolConfig, RewardSpec
from configs.schema.rollout import EvaluationConfig, RolloutConfig, SamplingConfig
from configs.schema.run import (
    BaseRun,
    ClusterConfig,
    DpoRun,
    ImitationRun,
    NamedStage,
    PreferenceRun,
    PretrainRun,
    RewardModelRun,
    RlRun,
    Run,
    SftRun,
    SupervisedRun,
)
from configs.schema.stages import (
    MAX_BEAM_WIDTH,
    EvaluateStage,
    ExportStage,
    PreferencesStage,
    RejectionSamplingStage,
    SampledStage,
    SamplesStage,
    Stage,
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
    "MAX_BEAM_WIDTH",
    "AlgorithmConfig",
    "ArithmeticConfig",
    "BaseRun",
    "CheckpointConfig",
    "ClusterConfig",
    "CountdownConfig",
    "CriticConfig",
    "DataConfig",
    "DpoRun",
    "EvaluateStage",
    "EvaluationConfig",
    "ExportStage",
    "GuardConfig",
    "ImitationRun",
    "LoggingConfig",
    "LoraConfig",
    "MixConfig",
    "ModelConfig",
    "NamedStage",
    "NewModelConfig",
    "OptimizerConfig",
    "PlacementConfig",
    "PreferenceRun",
    "PreferencesStage",
    "PretrainRun",
    "RankedArithmeticConfig",
    "ReasoningGymConfig",
    "ReferenceConfig",
    "RejectionSamplingStage",
    "RewardModelConfig",
    "RewardModelRun",
    "RewardPoolConfig",
    "RewardSpec",
    "RlRun",
    "RolloutConfig",
    "Run",
    "SampledStage",
    "SamplesStage",
    "SamplingConfig",
    "Section",
    "SftRun",
    "Stage",
    "SupervisedRun",
    "TokenizerConfig",
    "TrainerConfig",
    "WebTextConfig",
]
