"""One rank of a learner, whatever it learns: what the process that hosts it asks of it."""

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

from experience.records import Batch
from trainers.passes import Blocks
from trainers.zero.engine import StepReport, ZeroEngine
from trainers.zero.frozen import FrozenModel


class RankModels(Protocol):
    """What a checkpoint holds of one rank."""

    @property
    def engines(self) -> Mapping[str, ZeroEngine]:
        """Of every model that is trained, by the name of its folder in a checkpoint."""
        ...

    @property
    def moving_reference(self) -> FrozenModel | None:
        """A frozen model whose weights change during the run, and must be saved with it."""
        ...


class RankTrainer(RankModels, Protocol):
    """The work of one rank. All ranks call the same methods in the same order, with equal numbers of passes."""

    @property
    def engine(self) -> ZeroEngine:
        """Of the model that is published and exported."""
        ...

    def update(self, batch: Batch, blocks: Blocks) -> dict[str, float]:
        """One optimiser step a mini-batch (this rank's part of `batch`). Metrics of all ranks together."""
        ...


def summarise_steps(reports: Sequence[StepReport], prefix: str = "optimizer") -> Mapping[str, float]:
    """One batch's optimiser steps; the gradient norm is the mean of those that were taken."""
    taken = [report.grad_norm for report in reports if not report.skipped]
    return {
        f"{prefix}/grad_norm": sum(taken) / len(taken) if taken else math.nan,
        f"{prefix}/learning_rate": reports[-1].learning_rate,
        f"{prefix}/skipped_steps": float(len(reports) - len(taken)),
    }
