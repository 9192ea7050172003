"""Stopping by signal: the first one asks a run to end after its step, the second ends it at once."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Iterator

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """A second signal came: nothing more is saved."""


@contextlib.contextmanager
def stop_on_signal(stop: Callable[[], None]) -> Iterator[None]:
    """Inside, SIGINT (Ctrl-C) and SIGTERM call `stop`; a second one cancels the task that runs this."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    received = 0

    def receive() -> None:
        nonlocal received
        received += 1
        if received > 1:
            task.cancel()
            return
        logger.warning("stopping after this step; once more to stop at once")
        stop()

    for number in SIGNALS:
        loop.add_signal_handler(number, receive)
    try:
        yield
    except asyncio.CancelledError:
        if received > 1:
            raise Interrupted("stopped at once; the last checkpoint is as it was") from None
        raise
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)
