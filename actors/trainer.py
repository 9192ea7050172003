"""The learner as Ray actors: the ranks of the model that is trained, and the group of them."""

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.rank import Rank, resolve
from actors.ranks import RankGroup, absolute
from experience.records import Batch, BlockHandle, Weights
from metrics.waits import waited
from trainers import checkpoint
from trainers.checkpoint import Written
from trainers.model_files import RewardNormalization

if TYPE_CHECKING:
    from trainers.rank import RankTrainer

logger = logging.getLogger(__name__)

PUBLISH_BUCKET_BYTES = 64 << 20


class TrainerRank(Rank):
    """One rank of the model that is trained, and of what goes with it."""

    _trainer: "RankTrainer"

    def _assemble(self) -> "RankTrainer":
        from trainers.assembly import assemble

        return assemble(self._spec)

    def update(self, part: Batch, blocks: Mapping[int, BlockHandle]) -> dict[str, float]:
        """See `RankTrainer.update`; `blocks` are those that this rank's micro-batches name."""
        with self._memory_told(part):
            return self._trainer.update(part, resolve(blocks))

    def evaluate(self, part: Batch, blocks: Mapping[int, BlockHandle]) -> dict[str, float]:
        """See `ObjectiveTrainer.evaluate`."""
        from trainers.objective_trainer import ObjectiveTrainer

        assert isinstance(self._trainer, ObjectiveTrainer)
        with self._memory_told(part):
            return self._trainer.evaluate(part, resolve(blocks))

    def publish(self, version: int) -> Weights | None:
        """The current weights, as rollout workers load them."""
        from trainers.policy_weights import adapter_weights, whole_weights

        published = adapter_weights if self._spec.lora_sync == "adapter" else whole_weights
        return self._published(version, published(self._trainer.engine, PUBLISH_BUCKET_BYTES))

    def refresh_reference(self) -> None:
        """See `PolicyTrainer.refresh_reference`."""
        from trainers.policy_trainer import PolicyTrainer

        assert isinstance(self._trainer, PolicyTrainer)
        self._trainer.refresh_reference()

    def export(self, folder: str, normalization: RewardNormalization | None) -> None:
        """Write the model in Hugging Face format (rank 0 writes)."""
        from trainers.assembly import export_model

        export_model(self._trainer.engine, self._spec, Path(folder), normalization)


class TrainerGroup(RankGroup):
    """All ranks of the model that is trained, as one learner (trainers/roles.py)."""

    rank_class = TrainerRank

    async def update(self, batch: Batch) -> Mapping[str, float]:
        """One optimiser step a mini-batch, with one call to each rank; a batch without any changes nothing."""
        if not batch.mini_batches:
            logger.warning("no step taken: the batch holds no sequence to learn from")
            return {}
        return (await self._call("update", self._parts(batch)))[0]

    async def evaluate(self, batch: Batch) -> Mapping[str, float]:
        """What the objective measures on held-out data; nothing is trained."""
        return (await self._call("evaluate", self._parts(batch)))[0]

    async def publish(self, version: int) -> Weights:
        """The current weights, as rollout workers load them."""
        return (await self._call("publish", [(version,)] * len(self)))[0]

    async def refresh_reference(self) -> None:
        """Make the policy as it is now the reference."""
        await self._call("refresh_reference", [()] * len(self))

    async def save(self, draft: Path) -> Written:
        """Write the models into a checkpoint's draft. OSError when the disk has no room: training may go on."""
        await self.save_part(draft)
        return Written(world_size=len(self), config_digest=self._spec.config_digest)

    async def load(self, folder: Path) -> Mapping[str, Any]:
        """Go on from a checkpoint; returns the `state` it was saved with. CheckpointError when it is damaged."""
        verified = asyncio.to_thread(checkpoint.verify, folder)
        manifest = await waited(verified, what=f"the checksums of {folder.name}", owner="disk")
        checkpoint.check_ranks(folder, manifest, own_ranks={})
        await self.load_part(folder, manifest.world_size)
        return checkpoint.read_state(folder)

    async def export(self, folder: Path, normalization: RewardNormalization | None = None) -> None:
        """Write the model in Hugging Face format; a reward model with what its values are to become."""
        await self._call("export", [(absolute(folder), normalization)] * len(self))
