"""The register of waits: who waits for what and whom, since when, and how long at most.

A wait that is not here is one that nobody can explain when a run stands still. A deadline is one for progress where
a wait has a `progress` to watch: it begins anew whenever that changes.
"""

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

LOOKS_PER_DEADLINE = 4
MAX_SECONDS_BETWEEN_LOOKS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """`owner`: whose answer is waited for, such as "rollout-0". `seconds`: the deadline; None while it has none."""

    what: str
    owner: str
    seconds: float | None
    since: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        limit = "without a deadline" if self.seconds is None else f"at most {self.seconds:g} s"
        return f"for {self.owner}: {self.what}, since {time.monotonic() - self.since:.1f} s, {limit}"


class Overdue(TimeoutError):
    """A wait passed its deadline. The message names who did not do what."""

    def __init__(self, wait: Wait) -> None:
        super().__init__(f"{wait.owner}: no progress for {wait.seconds:g} s ({wait.what})")
        self.wait = wait


Doctor = Callable[[Wait], Awaitable[None]]

_numbers = itertools.count()
_pending: dict[int, Wait] = {}
_doctors: list[Doctor] = []


def pending() -> list[Wait]:
    """The waits of this process, oldest first."""
    return sorted(_pending.values(), key=lambda wait: wait.since)


@contextlib.contextmanager
def treated_by(doctor: Doctor) -> Iterator[None]:
    """Inside, `doctor` is called with each wait that passes its deadline, before it ends."""
    _doctors.append(doctor)
    try:
        yield
    finally:
        _doctors.remove(doctor)


async def waited(
    awaitable: Awaitable[Result],
    *,
    what: str,
    owner: str,
    seconds: float | None,
    progress: Callable[[], object] | None = None,
) -> Result:
    """What `awaitable` gives. Overdue, with `awaitable` cancelled, after `seconds` without it.

    `progress`: what changes as long as the owner is at work; each change begins the deadline anew.
    """
    task = asyncio.ensure_future(awaitable)
    wait, number = Wait(what=what, owner=owner, seconds=seconds), next(_numbers)
    _pending[number] = wait
    try:
        if not await _ends_in_time(task, seconds, progress):
            await _call_doctors(wait)
            raise Overdue(wait)
        return await task
    finally:
        del _pending[number]
        if not task.done():
            task.cancel()


async def _ends_in_time(
    task: "asyncio.Future[Result]", seconds: float | None, progress: Callable[[], object] | None
) -> bool:
    if seconds is None or progress is None:
        await asyncio.wait([task], timeout=seconds)
        return task.done()
    pause = min(seconds / LOOKS_PER_DEADLINE, MAX_SECONDS_BETWEEN_LOOKS)
    seen, moved = progress(), time.monotonic()
    while not task.done() and time.monotonic() - moved < seconds:
        await asyncio.wait([task], timeout=pause)
        if (now := progress()) != seen:
            seen, moved = now, time.monotonic()
    return task.done()


async def _call_doctors(wait: Wait) -> None:
    for doctor in _doctors:
        try:
            await doctor(wait)
        except Exception:
            logger.exception("no report of %s", wait)
