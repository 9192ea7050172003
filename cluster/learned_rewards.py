"""The reward models of a run: a fleet of scorers for each."""

import asyncio
from collections.abc import Sequence

from actors.scorer import ScorerSpec
from actors.scorer_fleet import ScorerFleet
from configs.schema import RewardModelConfig, RewardSpec


class LearnedRewards:
    """All reward models of a recipe; none of them holds a process before `start`."""

    def __init__(self, rewards: Sequence[RewardSpec], config: RewardModelConfig, *, prefix: str = "") -> None:
        """`prefix`: of the processes' names, where two lists may hold the same label."""
        self.fleets = {
            spec.label: ScorerFleet(ScorerSpec(name=prefix + spec.label, model_path=spec.model_path, config=config))
            for spec in rewards
            if spec.model_path is not None
        }

    async def start(self, *, use_gpu: bool) -> None:
        """Load every model; returns when all can be asked."""
        await asyncio.gather(*(fleet.start(use_gpu=use_gpu) for fleet in self.fleets.values()))

    async def close(self) -> None:
        """End every replica."""
        await asyncio.gather(*(fleet.close() for fleet in self.fleets.values()))
