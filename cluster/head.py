"""Watching the head of the Ray cluster, without which nothing of a run goes on."""

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Iterator

import ray

from cluster.exit_codes import STOPPED_RESUMABLE

_SECONDS_BETWEEN_LOOKS = 2.0
_MISSES = 4  # in a row


@contextlib.contextmanager
def head_watched() -> Iterator[None]:
    """Inside, this process ends with one line and exit code 75 as soon as the head is gone.

    At once, without tidying up: calls to Ray would wait a minute for a head that does not come back, and then end
    the process in their own way. What was started here ends with it (cluster/reaper.py).
    """
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    is_over = threading.Event()
    threading.Thread(target=_watch, args=((host.strip("[]"), int(port)), is_over), name="head", daemon=True).start()
    try:
        yield
    finally:
        is_over.set()


def _watch(address: tuple[str, int], is_over: threading.Event) -> None:
    misses = 0
    while misses < _MISSES:
        if is_over.wait(_SECONDS_BETWEEN_LOOKS):
            return
        misses = 0 if _answers(address) else misses + 1
    sys.stderr.write(
        f"the head of the Ray cluster at {address[0]}:{address[1]} is gone; the last checkpoint is as it was, "
        "and --resume goes on from it on a new cluster\n"
    )
    sys.stderr.flush()
    os._exit(STOPPED_RESUMABLE)


def _answers(address: tuple[str, int]) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(address, timeout=_SECONDS_BETWEEN_LOOKS):
        return True
    return False
