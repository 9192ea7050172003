"""The system calls that a sandboxed program may not make: those that start processes.

A limit on the number of processes would not do: the kernel never applies it to root, nor to what root maps to another
user, so a program that forks without end would take the machine. Threads stay allowed; memory bounds their number.
"""

import os
import platform
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rewards.contract import RewardError

# Classic BPF, as seccomp(2) takes it: opcodes, and offsets into `struct seccomp_data`.
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT = 0, 4, 16
_ALLOW, _KILL, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000  # _FAIL carries the errno in its low bits
_EPERM, _ENOSYS = 1, 38
_CLONE_THREAD = 0x00010000
_NO_SUCH_CALL = 0xFFFFFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class _Machine:
    """Numbers of a processor architecture. `foreign`: calls from here on belong to another ABI of it."""

    audit: int
    clone: int
    fork: int = _NO_SUCH_CALL
    vfork: int = _NO_SUCH_CALL
    clone3: int = 435
    foreign: int = _NO_SUCH_CALL


_MACHINES = {
    "x86_64": _Machine(audit=0xC000003E, clone=56, fork=57, vfork=58, foreign=0x40000000),
    "aarch64": _Machine(audit=0xC00000B7, clone=220),
}


def no_new_processes() -> bytes:
    """The filter. RewardError on a processor whose system calls are not known here."""
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        known = ", ".join(_MACHINES)
        raise RewardError(f"code: no sandbox for programs on {platform.machine()}; it is known for {known}")
    rules = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_IF_EQUAL, 1, 0, machine.audit),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_IF_AT_LEAST, 7, 0, machine.foreign),  # to the EPERM
        (_IF_EQUAL, 6, 0, machine.fork),
        (_IF_EQUAL, 5, 0, machine.vfork),
        (_IF_EQUAL, 5, 0, machine.clone3),  # to the ENOSYS: its flags are out of a filter's sight, clone's are not
        (_IF_EQUAL, 0, 2, machine.clone),
        (_LOAD, 0, 0, _FIRST_ARGUMENT_AT),
        (_IF_ANY_BIT, 0, 1, _CLONE_THREAD),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _FAIL | _EPERM),
        (_RETURN, 0, 0, _FAIL | _ENOSYS),
    ]
    return b"".join(struct.pack("=HBBI", *rule) for rule in rules)


@contextmanager
def filter_file() -> Iterator[int]:
    """A descriptor from which bubblewrap reads the filter; it must be passed on to it."""
    with tempfile.TemporaryFile() as file:
        file.write(no_new_processes())
        file.flush()
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        yield file.fileno()
