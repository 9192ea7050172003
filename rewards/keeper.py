"""The process that forks reward workers: it runs no reward, so it is always there to end one.

A worker is forked from here rather than started anew because the imports (sympy takes a second) are then
paid once, and because the kernel ties a worker's life to this single thread: when the pool's process goes,
however it goes, this process sees its socket close, ends all workers and itself.
"""

import contextlib
import ctypes
import importlib
import os
import select
import signal
import socket
import struct
import sys
from pathlib import Path

from rewards.worker import serve

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PID = struct.Struct("!i")

# What the pool asks for, and what the keeper answers.
SPAWN, END = b"S", b"E"


def main(control_fd: int, modules: list[str]) -> None:
    """Fork a worker for each SPAWN (its socket comes along), end one for each END, until the pool hangs up."""
    parent = os.getppid()
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # so that what a reward forks and abandons comes to us
    for name in modules:
        module = importlib.import_module(name)
        if hasattr(module, "warm_up"):
            module.warm_up()
    control = socket.socket(fileno=control_fd)
    workers: set[int] = set()
    control.sendall(b"R")
    os.dup2(1, 2)  # standard error told of a failed start; from here on nobody reads it
    while os.getppid() == parent:
        if not select.select([control], [], [], 1.0)[0]:
            continue
        message, fds, _, _ = socket.recv_fds(control, 1 + _PID.size, 1)
        if not message:
            break
        if message[:1] == SPAWN:
            workers.add(pid := _spawn(control, fds[0]))
            control.sendall(_PID.pack(pid))
        else:
            (pid,) = _PID.unpack(message[1:])
            workers.discard(pid)
            control.sendall(_PID.pack(_end(pid)))
            _end_strays(workers)
    _end_strays(set())


def _spawn(control: socket.socket, fd: int) -> int:
    keeper = os.getpid()
    pid = os.fork()
    if pid:
        os.close(fd)
        return pid
    status = 1
    try:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != keeper:  # it died before the line above
            os._exit(1)
        os.setsid()
        control.close()
        serve(socket.socket(fileno=fd))
        status = 0
    except BaseException:  # noqa: BLE001 - nothing may return into the keeper's loop
        status = 1
    finally:
        os._exit(status)


def _end(pid: int) -> int:
    """Kill a worker with all that it started in its session; its wait status."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):  # it may not have reached setsid
        os.kill(pid, signal.SIGKILL)
    try:
        return os.waitpid(pid, 0)[1]
    except ChildProcessError:
        return 0


def _end_strays(workers: set[int]) -> None:
    """End every child that is no living worker: orphans that came to us as their subreaper."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii")
    for pid in map(int, children.split()):
        if pid not in workers:
            _end(pid)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
