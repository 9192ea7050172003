"""Python stacks of a run's actors, asked for from outside.

An actor that hangs in a collective answers no call, but a thread of it still does: it listens on an abstract Unix
socket, which has no file that could be left behind. Who does not even answer there is described from /proc.
"""

import contextlib
import os
import re
import socket
import struct
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
import ray

from metrics import activity

SECONDS_TO_ANSWER = 2.0
_LONGEST_NAME = 40  # a socket's address holds 107 bytes
_CREDENTIALS = struct.Struct("3i")  # process, user, group


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What one process said, or what the kernel says of it."""

    name: str
    pid: int
    text: str


def session() -> str:
    """What all processes of this run have in common, and no others."""
    context = ray.get_runtime_context()
    return f"{context.gcs_address}/{context.get_job_id()}"


def listen(name: str) -> None:
    """Answer, for the rest of this process's life, whoever asks for the stacks of `name`."""
    server = socket.socket(socket.AF_UNIX)
    short = re.sub(r"[^\w.-]", "_", name)[-_LONGEST_NAME:]
    server.bind(f"\0{_prefix(session())}{short}/{os.getpid()}")
    server.listen()
    threading.Thread(target=_serve, args=(server,), name="stacks", daemon=True).start()


def told_here(of_session: str) -> list[Told]:
    """What each listening process of the session on this machine says; the silent ones as the kernel sees them."""
    with ThreadPoolExecutor(max_workers=64) as threads:
        found = threads.map(_ask, sorted(_addresses(_prefix(of_session))))
    return [told for told in found if told is not None]


def own_stacks() -> str:
    """The stacks of this process's threads, except the one that listens."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = []
    for ident, frame in sys._current_frames().items():
        if (name := names.get(ident, str(ident))) != "stacks":
            parts.append(f"thread {name}\n{''.join(traceback.format_stack(frame))}")
    return "".join(parts)


def _prefix(of_session: str) -> str:
    return f"wutong/{of_session}/"


def _serve(server: socket.socket) -> None:
    while True:
        connection, _ = server.accept()
        # Whoever asked may have gone again, or read no further.
        with connection, contextlib.suppress(OSError):
            connection.settimeout(SECONDS_TO_ANSWER)
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            if _CREDENTIALS.unpack(credentials)[1] in (0, os.getuid()):
                connection.sendall(f"at {activity.latest()}\n{own_stacks()}".encode())


def _addresses(prefix: str) -> set[str]:
    lines = Path("/proc/net/unix").read_text().splitlines()
    paths = [line.split()[-1] for line in lines if "@" in line]
    return {path[1:] for path in paths if path.startswith(f"@{prefix}")}


def _ask(address: str) -> Told | None:
    """None when the process is gone."""
    name, pid = address.split("/")[-2], int(address.split("/")[-1])
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(SECONDS_TO_ANSWER)
            connection.connect(f"\0{address}")
            text = b"".join(iter(lambda: connection.recv(1 << 16), b"")).decode(errors="replace")
    except TimeoutError:
        text = f"no answer within {SECONDS_TO_ANSWER:g} s\n{kernel_view(pid)}"
    except OSError:
        return None
    return Told(name=name, pid=pid, text=text)


def kernel_view(pid: int) -> str:
    """The process's state, what it waits for inside the kernel, and its children."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        wchan = Path(f"/proc/{pid}/wchan").read_text()
        children = [f"{child.pid} {child.name()} ({child.status()})" for child in psutil.Process(pid).children()]
    except (OSError, psutil.Error):
        return "its process is gone\n"
    state = next(line for line in status.splitlines() if line.startswith("State:"))
    return f"{state}\nwchan: {wchan}\nchildren: {', '.join(children) or 'none'}\n"
