"""A process that runs rewards: reads samples from a socket, answers each as soon as it is judged.

It owns nothing: its limits are set before any reward is loaded, its parent watches the clock, and it dies with
the keeper that forked it. Frames are a 4-byte length and JSON; a reply is a line of JSON.
"""

import io
import logging
import os
import resource
import socket
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rewards import wire
from rewards.calling import call_batch, call_one
from rewards.contract import RewardError, RewardInput, Score, Status
from rewards.loading import Rule, load

_LENGTH = struct.Struct("!I")
_OUTPUT_CHARACTERS = 4_000  # what is kept of a call's prints


class _Tail(io.TextIOBase):
    """Standard output for rewards: keeps the last few thousand characters."""

    def __init__(self) -> None:
        self._text = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        self._text = (self._text + text[-_OUTPUT_CHARACTERS:])[-_OUTPUT_CHARACTERS:]
        return len(text)

    def take(self) -> str:
        text, self._text = self._text, ""
        return text


def send_frame(connection: socket.socket, message: Any) -> None:
    """Write one frame."""
    data = wire.encode(message)
    connection.sendall(_LENGTH.pack(len(data)) + data)


def serve(connection: socket.socket) -> None:
    """Set the limits, load the rewards, answer frames until the pool hangs up."""
    output = _Tail()
    sys.stdout = sys.stderr = output
    logging.basicConfig(stream=output, level=logging.WARNING, format="%(message)s", force=True)
    stream = connection.makefile("rb")
    setup = _read_frame(stream)
    _limit(setup["memory_bytes"])
    try:
        folder = Path(setup["folder"])
        rules = [reward and load(reward["use"], reward["args"], folder) for reward in setup["rewards"]]
    except RewardError as error:
        _reply(connection, {"error": str(error)})
        return
    _reply(connection, {"batch": [bool(rule and rule.is_batch) for rule in rules]})
    while frame := _read_frame(stream):
        scores = _judge(connection, rules[frame["reward"]], wire.load_inputs(frame["items"]))
        is_spent = _is_spent(scores, setup["memory_bytes"])
        _reply(connection, {"done": True, "output": output.take(), "spent": is_spent})


def _judge(connection: socket.socket, rule: Rule, items: Sequence[RewardInput]) -> list[Score]:
    pid = os.getpid()
    scores = []
    if rule.is_batch:
        scores = call_batch(rule, items)
        _leave_if_forked(pid)
        for score in scores:
            _reply(connection, wire.dump_score(score))
        return scores
    for item in items:
        scores.append(score := call_one(rule, item))
        _leave_if_forked(pid)
        _reply(connection, wire.dump_score(score))
    return scores


def _leave_if_forked(pid: int) -> None:
    """A reward that forks returns twice; only the first process may answer."""
    if os.getpid() != pid:
        os._exit(0)


def _is_spent(scores: Sequence[Score], memory_bytes: int) -> bool:
    """This process should be replaced: out of memory, half way there, or with children left behind."""
    if any(score.status is Status.MEMORY for score in scores):
        return True
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 > memory_bytes / 2:
        return True
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


def _limit(memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _read_frame(stream: io.BufferedReader) -> Any:
    header = stream.read(_LENGTH.size)
    if len(header) < _LENGTH.size:
        return None
    return wire.decode(stream.read(_LENGTH.unpack(header)[0]))


def _reply(connection: socket.socket, message: Any) -> None:
    connection.sendall(wire.encode(message) + b"\n")
