"""The way of the weights from the trainer to the rollout workers by the store: both ends.

The trainer's rank 0 hands over buckets of tensors; each becomes one object of Ray's store, from which the
workers of a node read without a copy. A published version names every tensor and the checksum of every
bucket, so a worker knows that it holds what the trainer sent before it samples a token.

The other way, from device to device, is in channel.py (the bytes), offers.py (the ranks) and rounds.py (the fleet);
what a published version is, and what proves it, is the same.
"""

import asyncio
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
import xxhash
from numpy.typing import NDArray
from safetensors import safe_open

from experience.records import Weights

Bytes = NDArray[np.uint8]
NamedTensor = tuple[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorFacts:
    """What a tensor is, apart from its values. `dtype` is torch's name for it: "float32"."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Of its values."""
        return math.prod(self.shape) * getattr(torch, self.dtype).itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Some tensors that travel together. `handle` names the list of their bytes, in the order of `facts`; None where
    they do not lie in the store."""

    facts: tuple[TensorFacts, ...]
    checksum: str
    handle: Any


def publish(version: int, buckets: Iterable[Sequence[NamedTensor]]) -> Weights:
    """Put a version where the rollout workers can read it. Bucket by bucket: the next one is asked for
    when the one before has been copied, so its tensors need not live longer. Names must not repeat."""
    sent = tuple(_send(bucket) for bucket in buckets)
    names = [facts.name for bucket in sent for facts in bucket.facts]
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"weights version {version}: published twice: {', '.join(twice)}")
    return Weights(version=version, checksum=checksum_of(sent), handle=sent)


def _send(tensors: Sequence[NamedTensor]) -> Bucket:
    contents = [as_bytes(tensor) for _, tensor in tensors]
    with ThreadPoolExecutor(1) as beside:
        checksum = beside.submit(digest, contents)
        handle = ray.put(contents)
    return Bucket(
        facts=tuple(facts_of(name, tensor) for name, tensor in tensors), checksum=checksum.result(), handle=handle
    )


def has_bytes(weights: Weights) -> bool:
    """Whether they lie in the store; else they are sent through a channel (actors/channel.py)."""
    return all(bucket.handle is not None for bucket in weights.handle)


async def fetch(weights: Weights) -> list[list[Bytes]]:
    """Every bucket's bytes, read in place from this node's store. ValueError where they are not the bytes
    that were published."""
    contents: list[list[Bytes]] = list(await asyncio.gather(*(bucket.handle for bucket in weights.handle)))
    await asyncio.to_thread(prove, weights, contents)
    return contents


def prove(weights: Weights, contents: Sequence[Sequence[Bytes]]) -> None:
    """ValueError unless the bytes are those that were published."""
    for index, (bucket, arrays) in enumerate(zip(weights.handle, contents, strict=True)):
        found = digest(arrays)
        if found != bucket.checksum:
            raise ValueError(
                f"weights version {weights.version}: bucket {index} has checksum {found}, "
                f"published was {bucket.checksum}; the bytes were changed on the way"
            )
    if checksum_of(weights.handle) != weights.checksum:
        raise ValueError(f"weights version {weights.version}: its buckets are not those of its checksum")


def tensors_of(weights: Weights, contents: Sequence[Sequence[Bytes]]) -> Iterator[NamedTensor]:
    """Views of the fetched bytes as tensors; they must not be written to."""
    for bucket, arrays in zip(weights.handle, contents, strict=True):
        yield from tensors_in(bucket.facts, arrays)


def tensors_in(facts: Iterable[TensorFacts], arrays: Iterable[Bytes]) -> Iterator[NamedTensor]:
    """Those of one bucket."""
    for fact, array in zip(facts, arrays, strict=True):
        yield fact.name, torch.from_numpy(array).view(getattr(torch, fact.dtype)).view(fact.shape)


def facts_of(name: str, tensor: torch.Tensor) -> TensorFacts:
    """The tensor's name, dtype and shape."""
    return TensorFacts(name=name, dtype=str(tensor.dtype).removeprefix("torch."), shape=tuple(tensor.shape))


def as_bytes(tensor: torch.Tensor) -> Bytes:
    """The tensor's bytes: a view when it is contiguous and in host memory."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()


def digest(arrays: Iterable[Bytes]) -> str:
    """xxh3 of the arrays' bytes, one after the other."""
    state = xxhash.xxh3_128()
    for array in arrays:
        state.update(array.data)
    return state.hexdigest()


def checksum_of(buckets: Iterable[Bucket]) -> str:
    """One checksum over all names, dtypes, shapes and values. It depends on how they were cut into
    buckets, and on nothing else."""
    state = xxhash.xxh3_128()
    for bucket in buckets:
        state.update(repr((bucket.facts, bucket.checksum)).encode())
    return state.hexdigest()


def expected_shapes(model_path: Path) -> Mapping[str, tuple[int, ...]]:
    """Name -> shape of every tensor in the folder's safetensors files, by their headers alone."""
    files = sorted(model_path.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{model_path}: no *.safetensors file; a model folder must hold its weights in that form")
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        with safe_open(file, framework="numpy") as tensors:
            shapes |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    return shapes


def check_complete(weights: Weights, expected: Mapping[str, tuple[int, ...]], may_miss: Iterable[str] = ()) -> None:
    """ValueError unless the weights name exactly the expected tensors, in their shapes.

    To be called before a model is touched: an engine accepts a missing tensor in silence, and is broken
    for good by a wrong one.
    """
    found = {facts.name: facts.shape for bucket in weights.handle for facts in bucket.facts}
    problems = [f"{name} is missing" for name in expected if name not in found and name not in set(may_miss)]
    problems += [f"{name} is unknown" for name in found if name not in expected]
    problems += [
        f"{name} has shape {shape}, the model's is {expected[name]}"
        for name, shape in found.items()
        if name in expected and shape != expected[name]
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(f"weights version {weights.version} do not fit the model: {'; '.join(problems[:3])}{more}")
