"""SIGINT (Ctrl-C) and SIGTERM as calls of a function."""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """A second signal came: nothing more is saved."""


@contextlib.contextmanager
def handled_by(receive: Callable[[str], None]) -> Iterator[None]:
    """Inside, each of the signals calls `receive` with its name, on the running event loop."""
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, receive, number.name)
    try:
        yield
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def handlers_kept() -> Iterator[None]:
    """After this, the handlers are those from before: Ray installs its own for SIGTERM, which end the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def raised(make: Callable[[str], Exception]) -> Iterator[None]:
    """Inside, each of the signals raises what `make` gives for its name, where no event loop handles it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are none of its business
        return

    def receive(number: int, _: FrameType | None) -> None:
        raise make(signal.Signals(number).name)

    earlier = {number: signal.signal(number, receive) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
