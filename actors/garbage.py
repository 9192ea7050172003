"""Python's search for garbage in cycles, kept from what is known to stay."""

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


@contextmanager
def all_stays() -> Iterator[None]:
    """Inside nothing is searched, and what was made inside is not searched later either.

    For imports: a hundred thousand functions and classes that stay, and that Python would search again and again
    while they are made, a fifth of the time that torch, transformers and vLLM take.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
