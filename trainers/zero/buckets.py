"""A model's whole weights, some layers at a time, also where each rank holds a part of every tensor."""

from collections.abc import Iterator, Sequence
from itertools import groupby

import deepspeed
from torch import Tensor

Bucket = Sequence[tuple[str, Tensor]]


def _size(parameter: Tensor) -> int:
    """Elements of the whole parameter, also where this rank holds a part."""
    return getattr(parameter, "ds_numel", parameter.numel())


def num_elements(parameters: Sequence[Tensor]) -> int:
    """Of the whole parameters, also where this rank holds parts."""
    return sum(map(_size, parameters))


def weight_bytes(parameters: Sequence[Tensor]) -> int:
    """Size of the whole parameters, which are of one type."""
    return num_elements(parameters) * parameters[0].element_size()


def gathered(parameters: Bucket, nbytes: int, *, is_partitioned: bool) -> Iterator[Bucket]:
    """About `nbytes` at a time, what one layer owns in one bucket, which is valid until the next is asked for."""
    for bucket in _plan_buckets(parameters, nbytes):
        with deepspeed.zero.GatheredParameters([p for _, p in bucket], enabled=is_partitioned):
            yield [(name, parameter.detach()) for name, parameter in bucket]


def _plan_buckets(parameters: Bucket, nbytes: int) -> Iterator[list[tuple[str, Tensor]]]:
    bucket: list[tuple[str, Tensor]] = []
    size = 0
    for _, owned in groupby(parameters, key=lambda named: named[0].rpartition(".")[0]):
        layer = list(owned)
        layer_size = sum(_size(parameter) * parameter.element_size() for _, parameter in layer)
        if bucket and size + layer_size > nbytes:
            yield bucket
            bucket, size = [], 0
        bucket += layer
        size += layer_size
    if bucket:
        yield bucket
