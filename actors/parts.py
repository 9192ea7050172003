"""The devices of one engine, behind one face: this process alone, or processes of vLLM's beside it."""

import os
import warnings
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from vllm.config import VllmConfig
from vllm.lora.request import LoRARequest

from actors.adapters import EngineAdapter
from actors.channel import Channel, rejoined
from actors.messages import ChannelSpec, RolloutSpec
from actors.model_part import ModelPart
from actors.shared_bytes import shared
from actors.unnamed import unname
from actors.weights import Bytes, tensors_of
from experience.records import Weights


class Parts(Protocol):
    """All parts of an engine's model."""

    @property
    def adapter(self) -> LoRARequest | None:
        """What a sequence asks for to be sampled with the adapter."""
        ...

    def load(self, weights: Weights, contents: Sequence[Sequence[Bytes]]) -> None:
        """Replace the weights; returns when every part has proven that it holds them."""
        ...

    def meet(self, spec: ChannelSpec, place: int) -> None:
        """Have every part meet the other ends of a channel, the first at `place`."""
        ...

    def receive(self, weights: Weights) -> None:
        """`load` of what comes through the channel. RuntimeError where it is not what was offered."""
        ...

    def check(self) -> None:
        """RuntimeError where a part is lost."""
        ...


def parts_of(executor: Any, spec: RolloutSpec, config: VllmConfig) -> Parts:
    """Those of vLLM's executor of an engine that has just been started."""
    if spec.config.tensor_parallel_size == 1:
        return OwnPart(executor, spec, config)
    return SpawnedParts(executor, use_gpu=spec.use_gpu)


class OwnPart:
    """The whole model, in this process."""

    def __init__(self, executor: Any, spec: RolloutSpec, config: VllmConfig) -> None:
        runner = executor.driver_worker.worker.model_runner
        self._model = ModelPart(runner, config.model_config, use_gpu=spec.use_gpu)
        self._channel: Channel | None = None
        self._adapter = None if spec.adapter is None else EngineAdapter(spec.adapter, runner, config)

    @property
    def adapter(self) -> LoRARequest | None:
        """See Parts."""
        return None if self._adapter is None else self._adapter.request

    def load(self, weights: Weights, contents: Sequence[Sequence[Bytes]]) -> None:
        """See Parts. Whoever fetched the contents has proven them."""
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            (self._adapter or self._model).load(tensors_of(weights, contents))

    def meet(self, spec: ChannelSpec, place: int) -> None:
        """See Parts."""
        self._channel = rejoined(self._channel, spec, place)

    def receive(self, weights: Weights) -> None:
        """See Parts."""
        agree(f"weights version {weights.version}", weights.checksum, [self._model.receive(weights, self._channel)])

    def check(self) -> None:
        """See Parts: without this process nobody asks."""


class SpawnedParts:
    """Processes that vLLM has started, one a device. They end with the thread that made this object."""

    adapter = None

    def __init__(self, executor: Any, *, use_gpu: bool) -> None:
        self._executor = executor
        self._ask("hold_part", use_gpu, os.getpid())
        unname(executor.rpc_broadcast_mq)

    def load(self, weights: Weights, contents: Sequence[Sequence[Bytes]]) -> None:
        """See Parts. Bucket by bucket, each of which lies in memory twice meanwhile."""
        for index, (bucket, arrays) in enumerate(zip(weights.handle, contents, strict=True)):
            with shared(arrays) as place:
                found = self._ask("take_bucket", index, place, bucket.facts, bucket.checksum)
            agree(f"weights version {weights.version}, bucket {index}", bucket.checksum, found)
        agree(f"weights version {weights.version}", weights.checksum, self._ask("finish_load"))

    def meet(self, spec: ChannelSpec, place: int) -> None:
        """See Parts."""
        self._ask("meet_in_channel", spec, place)

    def receive(self, weights: Weights) -> None:
        """See Parts."""
        agree(f"weights version {weights.version}", weights.checksum, self._ask("receive_weights", weights))

    def check(self) -> None:
        """See Parts."""
        if self._executor.is_failed:
            codes = [handle.proc.exitcode for handle in self._executor.workers]
            raise RuntimeError(
                f"one of the engine's {len(codes)} processes died, and the others were ended; exit codes by rank: "
                f"{', '.join(map(str, codes))}"
            )

    def _ask(self, method: str, *args: Any) -> list[Any]:
        """The answers of all processes, by rank. Who never answers is ended with this process, by its supervisor."""
        return self._executor.collective_rpc(method, args=args)


def agree(what: str, published: str, found: Sequence[str]) -> None:
    """RuntimeError unless every process has found what was published."""
    wrong = [f"process {rank} found {checksum}" for rank, checksum in enumerate(found) if checksum != published]
    if wrong:
        raise RuntimeError(f"{what} has checksum {published} as published, but {'; '.join(wrong)}")
