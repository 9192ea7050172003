"""A group of processes in which weights go from device to device: one sends, all others receive at the same time.

NCCL between GPUs, gloo between CPUs, beside whatever other groups its processes belong to.
"""

import datetime
from collections.abc import Iterator, Sequence
from typing import Any

import ray
import torch
from torch import Tensor
from torch import distributed as dist

from actors.messages import ChannelSpec
from actors.weights import NamedTensor, TensorFacts

_ALIGNMENT = 64  # bytes: every tensor of a bucket begins at a multiple, so that any dtype may be read in place
_CHUNK_WORDS = 1 << 20  # of 8 bytes: a fingerprint needs three times that much memory beside the bucket's


class Channel:
    """One process's end. RuntimeError, from any method, when another end is gone or does not come in time."""

    def __init__(self, spec: ChannelSpec, place: int, listener: int | None = None) -> None:
        """Meets the others. `listener`: for place 0, the descriptor of a socket that is bound to the port."""
        timeout = datetime.timedelta(seconds=spec.timeout_seconds)
        store = dist.TCPStore(  # type: ignore[reportPrivateImportUsage]
            spec.host, spec.port, spec.size, is_master=place == 0, timeout=timeout, master_listen_fd=listener
        )
        self._group = _nccl(store, spec, place) if spec.use_gpu else _gloo(store, spec, place)
        self._use_gpu = spec.use_gpu
        self._device = torch.device("cuda", torch.cuda.current_device()) if spec.use_gpu else torch.device("cpu")

    def send(self, flat: Tensor) -> None:
        """To all others, who wait for as many bytes. `flat`: uint8, one after the other, on this end's device."""
        self._broadcast(flat)

    def receive(self, num_bytes: int) -> Tensor:
        """What place 0 sends, on this end's device."""
        flat = torch.empty(num_bytes, dtype=torch.uint8, device=self._device)
        self._broadcast(flat)
        return flat

    def close(self) -> None:
        """Leave. Ends that still wait for this one are told."""
        if self._use_gpu:
            self._group.abort()
        del self._group

    def _broadcast(self, flat: Tensor) -> None:
        options = dist.BroadcastOptions()
        options.rootRank = options.rootTensor = 0
        self._group.broadcast([flat], options).wait()


def rejoined(earlier: Channel | None, spec: ChannelSpec, place: int) -> Channel:
    """An end of a new channel, in place of the earlier one."""
    if earlier is not None:
        earlier.close()
    return Channel(spec, place)


def _gloo(store: Any, spec: ChannelSpec, place: int) -> Any:
    # By its address: gloo would look the host's name up, which on many machines means the loopback.
    device = dist.ProcessGroupGloo.create_device(hostname=ray.util.get_node_ip_address())
    options: Any = dist.ProcessGroupGloo._Options()  # type: ignore[reportAttributeAccessIssue]
    options._devices = [device]
    options._timeout = datetime.timedelta(seconds=spec.timeout_seconds)
    return dist.ProcessGroupGloo(store, place, spec.size, options)


def _nccl(store: Any, spec: ChannelSpec, place: int) -> Any:
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = datetime.timedelta(seconds=spec.timeout_seconds)
    return dist.ProcessGroupNCCL(store, place, spec.size, options)


def flat_bytes(facts: Sequence[TensorFacts]) -> int:
    """Of a bucket as it is sent."""
    return sum(map(_padded, facts))


def flattened(bucket: Sequence[NamedTensor], facts: Sequence[TensorFacts]) -> Tensor:
    """The bucket as it is sent: a copy, on the device of its tensors, which must have one."""
    flat = torch.zeros(flat_bytes(facts), dtype=torch.uint8, device=bucket[0][1].device)
    for (_, tensor), (_, view) in zip(bucket, tensors_in(facts, flat), strict=True):
        view.copy_(tensor.detach())
    return flat


def tensors_in(facts: Sequence[TensorFacts], flat: Tensor) -> Iterator[NamedTensor]:
    """Views of what was sent."""
    start = 0
    for fact in facts:
        own = flat[start : start + fact.num_bytes]
        yield fact.name, own.view(getattr(torch, fact.dtype)).view(fact.shape)
        start += _padded(fact)


def fingerprint(flat: Tensor) -> str:
    """A checksum that any device can make: the sum of the bucket's 8-byte words, and that of each times its place,
    both modulo 2^64. It tells any one word that changed, and nearly all that changed places."""
    words = flat.view(torch.int64)
    sums = torch.zeros(2, dtype=torch.int64, device=flat.device)
    for start in range(0, len(words), _CHUNK_WORDS):
        chunk = words[start : start + _CHUNK_WORDS]
        places = torch.arange(start + 1, start + 1 + len(chunk), device=flat.device)
        sums += torch.stack([chunk.sum(), (chunk * places).sum()])
    return "".join(f"{value % (1 << 64):016x}" for value in sums.tolist())


def _padded(fact: TensorFacts) -> int:
    return -(-fact.num_bytes // _ALIGNMENT) * _ALIGNMENT
