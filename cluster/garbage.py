"""Python's search for garbage in cycles, made rare while a run's records live."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_THRESHOLDS = (20_000, 20, 100)  # Python's own: 700, 10, 10


@contextmanager
def collected_rarely() -> Iterator[None]:
    """Inside, what is there already is never searched, and new objects seldom.

    Every trajectory in flight is a handful of objects, none in a cycle. Python would search all of them again and
    again: a third of what the controller costs, in pauses of a tenth of a second.
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
