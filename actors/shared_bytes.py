"""Bytes for other processes of this machine, without a file that could be left behind.

They lie in anonymous memory, which goes with the last process that has it open or mapped. Others open it by way of
/proc, as far as they belong to the same user.
"""

import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

_ALIGNMENT = 64  # bytes: every array begins at a multiple, so that any dtype may be read in place


@contextmanager
def shared(arrays: Sequence[Bytes]) -> Iterator[str]:
    """Copies of the arrays; where others of this machine find them, inside."""
    descriptor = os.memfd_create("wutong-weights")
    try:
        with open(descriptor, "wb", closefd=False) as memory:
            for array, start in zip(arrays, _starts([array.size for array in arrays]), strict=True):
                memory.seek(start)
                memory.write(array.data)
        yield f"/proc/{os.getpid()}/fd/{descriptor}"
    finally:
        os.close(descriptor)


def shared_at(place: str, sizes: Sequence[int]) -> list[Bytes]:
    """The arrays at `place`, of these sizes in bytes. They live on when the place is gone."""
    with open(place, "rb") as memory:  # noqa: PTH123 - the path names a descriptor
        # A private mapping: torch may write to it, and nobody else would see that.
        mapped = mmap.mmap(memory.fileno(), 0, access=mmap.ACCESS_COPY)
    whole = np.frombuffer(mapped, dtype=np.uint8)
    return [whole[start : start + size] for start, size in zip(_starts(sizes), sizes, strict=True)]


def _starts(sizes: Sequence[int]) -> list[int]:
    starts, end = [], 0
    for size in sizes:
        starts.append(end)
        end += -(-size // _ALIGNMENT) * _ALIGNMENT
    return starts
