"""Ray's object store when it is full: told in one line, wherever it is found."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ray.exceptions import ObjectStoreFullError, OutOfDiskError

FULL: Final = (ObjectStoreFullError, OutOfDiskError)  # also what a task raises that met one of them
HOW_TO_MEND: Final = (
    "Ray's object store is full, and so is the disk that it spills to (ENOSPC): free room on the disk of Ray's "
    "session folder, of which Ray leaves 5 % alone, or start Ray with a larger --object-store-memory"
)


class StoreFull(RuntimeError):
    """A node has no room for another object, in memory or on its disk. Another process there would find the same."""

    def __init__(self, who: str = "") -> None:
        super().__init__(f"{who}: {HOW_TO_MEND}" if who else HOW_TO_MEND)


@contextmanager
def full_store_told() -> Iterator[None]:
    """Inside, a full store is StoreFull: Ray's own errors take lines, and some a traceback of another process."""
    try:
        yield
    except FULL as error:
        raise StoreFull from error
