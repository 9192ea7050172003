"""One rank of a reference that has ranks of its own: it scores each batch for the policy's ranks."""

from collections.abc import Iterable, Mapping

from experience.columns import Place
from experience.records import Batch
from trainers.divergence import divergences
from trainers.parallel import Layout
from trainers.passes import Blocks, Packs, Scores, own_micro_batches, score
from trainers.policy import PolicyObjective
from trainers.zero.buckets import Bucket
from trainers.zero.engine import ZeroEngine
from trainers.zero.frozen import FrozenModel


class ReferenceTrainer:
    """A frozen model; see RankModels for what a checkpoint holds of it."""

    def __init__(self, model: FrozenModel, objective: PolicyObjective, layout: Layout) -> None:
        self._model = model
        self._objective = objective
        self._layout = layout
        self.engines: Mapping[str, ZeroEngine] = {}

    @property
    def moving_reference(self) -> FrozenModel | None:
        """See RankModels."""
        return self._model if self._objective.algorithm.reference_refresh_steps else None

    def score(self, batch: Batch, blocks: Blocks) -> Scores:
        """Its log-probs of this rank's micro-batches."""
        packs = Packs(blocks, self._model.device, self._layout)
        temperature = self._objective.temperature
        return score(lambda packed: self._model(packed, temperature)[0], own_micro_batches(batch.mini_batches), packs)

    def divergences(self, batch: Batch, blocks: Blocks) -> dict[Place, float]:
        """Of this rank's sequences from this model: see trainers/divergence.py."""
        return divergences(self.score(batch, blocks), Packs(blocks, self._model.device, self._layout))

    def load(self, buckets: Iterable[Bucket]) -> None:
        """Become the model that has these weights; all ranks enter with the same."""
        self._model.load(buckets)
