"""One of the processes of an engine on several devices: what is asked of it beyond what vLLM asks."""

from collections.abc import Sequence
from typing import Any

from actors.channel import Channel, rejoined
from actors.lifeline import end_with
from actors.messages import ChannelSpec
from actors.model_part import ModelPart
from actors.shared_bytes import shared_at
from actors.unnamed import unname_all
from actors.weights import Bucket, TensorFacts, checksum_of, digest, tensors_in
from experience.records import Weights


class PartWorker:
    """vLLM makes it a base of its own worker's class (`worker_extension_cls`); its methods are called by name.

    They answer and don't raise where weights are not what was published: who asked hears of every process.
    """

    model_runner: Any
    model_config: Any
    _part: ModelPart
    _taken: list[Bucket]
    _channel: Channel | None = None

    def hold_part(self, use_gpu: bool, parent: int) -> None:
        """Prepare for the first weights. `parent`: the process that started this one."""
        end_with(parent)
        unname_all()
        self._part = ModelPart(self.model_runner, self.model_config, use_gpu=use_gpu)

    def take_bucket(self, index: int, place: str, facts: Sequence[TensorFacts], checksum: str) -> str:
        """Load the bucket that lies at `place` (actors/shared_bytes.py); the checksum of what was found there.

        Where that is not `checksum`, nothing is loaded.
        """
        contents = shared_at(place, [fact.num_bytes for fact in facts])
        found = digest(contents)
        if found != checksum:
            return found
        if index == 0:
            self._taken = []
            self._part.begin()
        self._part.take(tensors_in(facts, contents))
        self._taken.append(Bucket(facts=tuple(facts), checksum=found, handle=None))
        return found

    def meet_in_channel(self, spec: ChannelSpec, place: int) -> None:
        """Meet the other ends; `place`: that of the first of these processes."""
        self._channel = rejoined(self._channel, spec, place + self._part.place)

    def receive_weights(self, weights: Weights) -> str:
        """Load what comes through the channel; the checksum over it."""
        return self._part.receive(weights, self._channel)

    def finish_load(self) -> str:
        """All buckets were taken; the checksum over them."""
        self._part.finish()
        return checksum_of(self._taken)
