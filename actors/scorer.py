"""The scorer: an actor around one replica of a reward model."""

from collections.abc import Sequence
from dataclasses import dataclass

from configs.schema.rewards import RewardModelConfig
from rewards.contract import RewardInput, Score


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorerSpec:
    """Which reward model, and how it is held. `name`: the reward's label."""

    name: str
    model_path: str
    config: RewardModelConfig


def environment(config: RewardModelConfig, use_gpu: bool) -> dict[str, str]:
    """Environment variables of the scorer's process; most are read when torch is imported."""
    variables = {
        "PYTHONDONTWRITEBYTECODE": "",  # else every scorer compiles torch and transformers from source again
        "OMP_NUM_THREADS": str(config.threads_per_replica),
    }
    return variables if use_gpu else variables | {"CUDA_VISIBLE_DEVICES": ""}


class ScorerReplica:
    """Holds the model from `start` on."""

    def __init__(self, spec: ScorerSpec) -> None:
        self._spec = spec

    def start(self) -> None:
        """Load the model; ValueError when it is none that scores."""
        config = self._spec.config
        from trainers.scoring_model import ScoringModel  # takes seconds, which no driver should spend

        self._model = ScoringModel(self._spec.model_path, dtype=config.dtype, tokens_per_batch=config.tokens_per_batch)

    def score(self, items: Sequence[RewardInput]) -> list[Score]:
        """One score for each item, in order."""
        return self._model.score_blocking(items)
