"""The learner as Ray actors: the ranks of the model that is trained, and the group of them."""

import asyncio
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.messages import ChannelSpec
from actors.offers import Offer
from actors.rank import Rank, resolve
from actors.ranks import RankGroup, absolute
from actors.rendezvous import ReservedAddress
from experience.records import Batch, BlockHandle, Weights
from metrics.waits import waited
from trainers import checkpoint
from trainers.checkpoint import Written
from trainers.model_files import RewardNormalization

if TYPE_CHECKING:
    from actors.channel import Channel
    from trainers.rank import RankTrainer
    from trainers.zero.buckets import Bucket as ZeroBucket

logger = logging.getLogger(__name__)

PUBLISH_BUCKET_BYTES = 64 << 20


class TrainerRank(Rank):
    """One rank of the model that is trained, and of what goes with it."""

    _trainer: "RankTrainer"
    _channel: "Channel | None" = None
    _meeting: ReservedAddress

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

    def offer(self, version: int) -> Weights | None:
        """The current weights without their bytes, from rank 0: every bucket's facts and fingerprint."""
        from actors.channel import fingerprint, flattened
        from actors.weights import Bucket, checksum_of, facts_of

        buckets = []
        for bucket in self._buckets():
            if self._rank == 0:
                facts = tuple(facts_of(name, tensor) for name, tensor in bucket)
                buckets.append(Bucket(facts=facts, checksum=fingerprint(flattened(bucket, facts)), handle=None))
        if self._rank > 0:
            return None
        return Weights(version=version, checksum=checksum_of(buckets), handle=tuple(buckets))

    def listen(self) -> tuple[str, int] | None:
        """Where rank 0 will wait for the other ends of a channel."""
        if self._rank > 0:
            return None
        self._meeting = ReservedAddress()
        return self._meeting.address

    def meet(self, spec: ChannelSpec) -> str | None:
        """Meet the other ends of the channel, on rank 0. Why they can't be met, if so: that is no failure of a rank."""
        from actors.channel import Channel

        if self._rank > 0:
            return None
        if self._channel is not None:
            self._channel.close()
        self._channel = None
        try:
            self._channel = Channel(spec, 0, self._meeting.hand_over(0))
        except RuntimeError as error:
            return str(error)
        return None

    def send(self) -> str | None:
        """All weights into the channel. Why rank 0 could not send them all, if so; every rank helps to gather them."""
        from actors.channel import flattened
        from actors.weights import facts_of

        problem = None
        for bucket in self._buckets():
            if self._rank == 0 and self._channel is not None and problem is None:
                flat = flattened(bucket, [facts_of(name, tensor) for name, tensor in bucket])
                try:
                    self._channel.send(flat)
                except RuntimeError as error:
                    problem = str(error)
        return problem

    def _buckets(self) -> "Iterator[ZeroBucket]":
        from trainers.policy_weights import whole_weights

        return whole_weights(self._trainer.engine, PUBLISH_BUCKET_BYTES)

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
        if self._spec.weight_transport == "store":
            return await self.store(version)
        offered: Weights = (await self._call("offer", [(version,)] * len(self)))[0]
        return replace(offered, handle=Offer(self, offered))

    async def store(self, version: int) -> Weights:
        """See Holders (actors/offers.py), as the other three."""
        return (await self._call("publish", [(version,)] * len(self)))[0]

    async def listen(self) -> tuple[str, int]:
        """See Holders."""
        return (await self._call("listen", [()] * len(self)))[0]

    async def meet(self, spec: ChannelSpec) -> str | None:
        """See Holders."""
        return (await self._call("meet", [(spec,)] * len(self)))[0]

    async def send(self) -> str | None:
        """See Holders."""
        return (await self._call("send", [()] * len(self)))[0]

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
