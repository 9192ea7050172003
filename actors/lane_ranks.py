"""Ranks that take part in one update from process groups of their own: the policy's, the reference's, the critic's.

What a rank finds of its tokens goes into Ray's object store as one column; the ranks that need it read it there.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ray

from actors import weights
from actors.rank import Rank, resolve
from actors.trainer import PUBLISH_BUCKET_BYTES, TrainerRank
from experience.columns import Place
from experience.records import Batch, BlockHandle, Weights

if TYPE_CHECKING:
    from trainers.critic_trainer import CriticTrainer
    from trainers.lanes import TokenCredit
    from trainers.policy_trainer import OpenBatch, PolicyTrainer
    from trainers.reference_trainer import ReferenceTrainer

ColumnHandle = Any  # names a TokenColumn in the object store


class PolicyRank(TrainerRank):
    """A rank of the policy. One update is `update`, or `credit` and `learn` where a critic elsewhere needs returns."""

    _opened: "OpenBatch"
    _credit: "TokenCredit"

    @property
    def _policy(self) -> "PolicyTrainer":
        from trainers.policy_trainer import PolicyTrainer

        assert isinstance(self._trainer, PolicyTrainer)
        return self._trainer

    def score(self, part: Batch, blocks: Mapping[int, BlockHandle], is_old_needed: bool) -> dict[str, ColumnHandle]:
        """See `PolicyTrainer.score`; what was found, by its name in Lanes."""
        from trainers.columns import column_of

        with self._memory_told(part):
            found = self._policy.score(part, resolve(blocks), is_old_needed=is_old_needed)
        return {name: ray.put(column_of(scores)) for name, scores in found.known.items()}

    def credit(
        self, part: Batch, blocks: Mapping[int, BlockHandle], lanes: Mapping[str, Sequence[ColumnHandle]]
    ) -> ColumnHandle:
        """See `PolicyTrainer.credit`; gives this rank's returns. `lanes`: the scores, by their names in Lanes."""
        from trainers.columns import column_of

        with self._memory_told(part):
            self._open(part, blocks, lanes)
        return ray.put(column_of(self._credit.returns))

    def learn(self) -> dict[str, float]:
        """See `PolicyTrainer.learn`; the batch is let go of."""
        with self._memory_told(self._opened.batch):
            metrics = self._policy.learn(self._opened, self._credit)
        del self._opened, self._credit
        return metrics

    def learn_from(
        self, part: Batch, blocks: Mapping[int, BlockHandle], lanes: Mapping[str, Sequence[ColumnHandle]]
    ) -> dict[str, float]:
        """`credit` and `learn` in one."""
        with self._memory_told(part):
            self._open(part, blocks, lanes)
        return self.learn()

    def _open(
        self, part: Batch, blocks: Mapping[int, BlockHandle], lanes: Mapping[str, Sequence[ColumnHandle]]
    ) -> None:
        from trainers.columns import lanes_from

        columns = {name: ray.get(list(handles)) for name, handles in lanes.items()}
        self._opened = self._policy.open(part, resolve(blocks), lambda packs: lanes_from(columns, part, packs))
        self._credit = self._policy.credit(self._opened)

    def divergences(self, part: Batch, blocks: Mapping[int, BlockHandle]) -> dict[Place, float]:
        """See `PolicyTrainer.divergences`."""
        with self._memory_told(part):
            return self._policy.divergences(part, resolve(blocks))

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

    def score(self, part: Batch, blocks: Mapping[int, BlockHandle]) -> dict[str, ColumnHandle]:
        """See `ReferenceTrainer.score`."""
        from trainers.columns import column_of

        with self._memory_told(part):
            return {"ref_logprobs": ray.put(column_of(self._trainer.score(part, resolve(blocks))))}

    def divergences(self, part: Batch, blocks: Mapping[int, BlockHandle]) -> dict[Place, float]:
        """See `ReferenceTrainer.divergences`."""
        with self._memory_told(part):
            return self._trainer.divergences(part, resolve(blocks))

    def take(self, published: Weights) -> None:
        """Become the policy that published these."""
        contents = asyncio.run(weights.fetch(published))
        self._trainer.load(
            list(weights.tensors_of(replace(published, handle=(bucket,)), [arrays]))
            for bucket, arrays in zip(published.handle, contents, strict=True)
        )


class CriticRank(Rank):
    """A rank of a critic with ranks of its own."""

    file_prefix = "critic_"
    _trainer: "CriticTrainer"

    def _assemble(self) -> "CriticTrainer":
        from trainers.assembly import assemble_critic

        return assemble_critic(self._spec)

    def score(self, part: Batch, blocks: Mapping[int, BlockHandle]) -> dict[str, ColumnHandle]:
        """See `CriticTrainer.score`."""
        from trainers.columns import column_of

        with self._memory_told(part):
            return {"values": ray.put(column_of(self._trainer.score(part, resolve(blocks))))}

    def learn(
        self,
        part: Batch,
        blocks: Mapping[int, BlockHandle],
        values: Sequence[ColumnHandle],
        returns: Sequence[ColumnHandle],
    ) -> dict[str, float]:
        """See `CriticTrainer.learn`."""
        with self._memory_told(part):
            return self._trainer.learn(part, resolve(blocks), ray.get(list(values)), ray.get(list(returns)))
