"""The scorer: an actor around one replica of a reward model, or around one rank's share of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from actors import stacks, telemetry
from actors.garbage import all_stays
from actors.rendezvous import ReservedAddress, set_rank_environment
from configs.schema.rewards import RewardModelConfig
from configs.schema.training import TrainerConfig
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
        **telemetry.OFF,
        "PYTHONDONTWRITEBYTECODE": "",  # else every scorer compiles torch and transformers from source again
        "OMP_NUM_THREADS": str(config.threads_per_replica),
    }
    return variables if use_gpu else variables | {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}


class ScorerRank:
    """Holds the model, or its share of it, from `start` on. All ranks of a replica are called together."""

    def __init__(self, spec: ScorerSpec, rank: int, use_gpu: bool) -> None:
        self._spec, self._rank, self._use_gpu = spec, rank, use_gpu
        self._reserved = ReservedAddress()
        self._name = f"{spec.name}-{rank}"
        stacks.listen(self._name)

    def __repr__(self) -> str:
        """How Ray calls it in logs and in its dashboard."""
        return self._name

    def address(self) -> tuple[str, int]:
        """Where the ranks could meet, were this the first of them."""
        return self._reserved.address

    def start(self, master: tuple[str, int], is_single_host: bool) -> None:
        """Load the model; ValueError when it is none that scores. The ranks meet where rank 0 listens, at `master`."""
        config = self._spec.config
        with all_stays():
            from trainers.scoring_model import ScoringModel  # takes seconds, which no driver should spend

        ranks = None
        if config.ranks_per_replica > 1:
            from trainers.zero.group import join_process_group

            is_local = is_single_host and not self._use_gpu
            set_rank_environment(self._rank, config.ranks_per_replica, master, is_local=is_local)
            join_process_group(ranks := _group(config), self._reserved.hand_over(self._rank))
        self._model = ScoringModel(
            self._spec.model_path, dtype=config.dtype, tokens_per_batch=config.tokens_per_batch, ranks=ranks
        )

    def score(self, items: Sequence[RewardInput]) -> dict[int, Score]:
        """The scores of this rank's share of the items, by their place."""
        return self._model.score_share(items)


def _group(config: RewardModelConfig) -> TrainerConfig:
    return TrainerConfig(
        num_ranks=config.ranks_per_replica,
        zero_stage=3,
        threads_per_rank=config.threads_per_replica,
        collective_timeout_seconds=max(config.timeout_seconds, config.start_timeout_seconds),
    )
