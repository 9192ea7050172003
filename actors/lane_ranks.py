"""Ranks that take part in one update from process groups of their own: the policy's, the reference's, the critic's.

What a rank finds of its tokens goes into Ray's object store as one column; the ranks that need it read it there.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ray

from actors import weights
from actors.ranks import Rank, resolve
from actors.trainer import PUBLISH_BUCKET_BYTES, TrainerRank
from experience.records import Batch, BlockHandle, Weights

if TYPE_CHECKING:
    from trainers.critic_trainer import CriticTrainer, ValuedBatch
    from trainers.lanes import TokenCredit
    from trainers.policy_trainer import OpenBatch, PolicyTrainer
    from trainers.reference_trainer import ReferenceTrainer

ColumnHandle = Any  # names a TokenColumn in the object store


class PolicyRank(TrainerRank):
    """A rank of the policy that is sent lanes by others. One update is `score`, `credit` and `learn`."""

    _scored: "OpenBatch"
    _credit: "TokenCredit"

    @property
    def _policy(self) -> "PolicyTrainer":
        from trainers.policy_trainer import PolicyTrainer

        assert isinstance(self._trainer, PolicyTrainer)
        return self._trainer

    def score(self, part: Batch, blocks: Mapping[int, BlockHandle]) -> None:
        """See `PolicyTrainer.score`."""
        with self._memory_told(part):
            self._scored = self._policy.score(part, resolve(blocks))

    def credit(self, lanes: Mapping[str, Sequence[ColumnHandle]]) -> ColumnHandle:
        """See `PolicyTrainer.credit`; gives this rank's returns. `lanes`: what others found, by its name in Lanes."""
        from trainers.columns import column_of, scores_from

        scored = self._scored
        given = {
            name: scores_from(ray.get(list(columns)), scored.micro_batches, scored.packs)
            for name, columns in lanes.items()
        }
        self._scored = replace(scored, lanes=replace(scored.lanes, **given))
        self._credit = self._policy.credit(self._scored)
        return ray.put(column_of(self._credit.returns))

    def learn(self) -> dict[str, float]:
        """See `PolicyTrainer.learn`; the batch is let go of."""
        with self._memory_told(self._scored.batch):
            metrics = self._policy.learn(self._scored, self._credit)
        del self._scored, self._credit
        return metrics

    def publish_parameters(self) -> Weights | None:
        """The current weights under the names that this module and the reference's have for them."""
        return self._published(0, self._policy.engine.buckets(PUBLISH_BUCKET_BYTES))


class ReferenceRank(Rank):
    """A rank of a reference with ranks of its own."""

    file_prefix = "reference_"
    _trainer: "ReferenceTrainer"

    def _assemble(self) -> "ReferenceTrainer":
        from trainers.assembly import assemble_reference

        return assemble_reference(self._spec)

    def score(self, part: Batch, blocks: Mapping[int, BlockHandle]) -> ColumnHandle:
        """See `ReferenceTrainer.score`."""
        from trainers.columns import column_of

        with self._memory_told(part):
            return ray.put(column_of(self._trainer.score(part, resolve(blocks))))

    def take(self, published: Weights) -> None:
        """Become the policy that published these."""
        contents = asyncio.run(weights.fetch(published))
        self._trainer.load(
            list(weights.tensors_of(replace(published, handle=(bucket,)), [arrays]))
            for bucket, arrays in zip(published.handle, contents, strict=True)
        )


class CriticRank(Rank):
    """A rank of a critic with ranks of its own. One update is `score` and `learn`."""

    file_prefix = "critic_"
    _trainer: "CriticTrainer"
    _valued: "ValuedBatch"

    def _assemble(self) -> "CriticTrainer":
        from trainers.assembly import assemble_critic

        return assemble_critic(self._spec)

    def score(self, part: Batch, blocks: Mapping[int, BlockHandle]) -> ColumnHandle:
        """See `CriticTrainer.score`."""
        from trainers.columns import column_of

        with self._memory_told(part):
            self._valued = self._trainer.score(part, resolve(blocks))
        return ray.put(column_of(self._valued.values))

    def learn(self, returns: Sequence[ColumnHandle]) -> dict[str, float]:
        """See `CriticTrainer.learn`; the batch is let go of."""
        with self._memory_told(self._valued.batch):
            metrics = self._trainer.learn(self._valued, ray.get(list(returns)))
        del self._valued
        return metrics
