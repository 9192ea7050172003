"""The register of waits: who waits for what and whom, since when, and how long at most.

A wait that is not here is one that nobody can explain when a run stands still. A deadline is one for progress where
a wait has a `progress` to watch: it begins anew whenever that changes.
"""

import asyncio
import contextlib
import itertools
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Reporter = Callable[[str, str], Awaitable[Path]]

LOOKS_PER_DEADLINE: Final = 4
HANG_TIMEOUT_SECONDS: Final = 1800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """`owner`: whose answer is waited for, such as "rollout-0". `seconds`: the deadline; infinite: another's holds."""

    what: str
    owner: str
    seconds: float
    since: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        limit = "as long as the others" if math.isinf(self.seconds) else f"at most {self.seconds:g} s"
        return f"for {self.owner}: {self.what}, since {time.monotonic() - self.since:.1f} s, {limit}"


class Overdue(TimeoutError):
    """A wait passed its deadline. The message names who did not do what, and the report on it."""

    def __init__(self, wait: Wait, report: str = "") -> None:
        super().__init__(f"{wait.owner}: no progress for {wait.seconds:g} s ({wait.what}){report}")
        self.wait = wait


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What waits of a run share: the deadline of those without their own, and who writes a report on a hang."""

    seconds: float = HANG_TIMEOUT_SECONDS
    reporter: Reporter | None = None


_numbers = itertools.count()
_pending: dict[int, Wait] = {}
_gauges: dict[str, Callable[[], str]] = {}
_ALONE = Watch()
_watch: ContextVar[Watch] = ContextVar("_watch", default=_ALONE)


def pending() -> list[Wait]:
    """The waits of this process, oldest first."""
    return sorted(_pending.values(), key=lambda wait: wait.since)


def gauges() -> dict[str, str]:
    """What stands in the queues of this process."""
    return {name: describe() for name, describe in _gauges.items()}


@contextlib.contextmanager
def shown(name: str, describe: Callable[[], str]) -> Iterator[None]:
    """Inside, reports show what `describe` says."""
    _gauges[name] = describe
    try:
        yield
    finally:
        _gauges.pop(name, None)


@contextlib.contextmanager
def watched_by(reporter: Reporter | None, seconds: float = HANG_TIMEOUT_SECONDS) -> Iterator[None]:
    """Inside, and in tasks begun there, waits have this deadline, and `reporter` is told of those that pass theirs."""
    token = _watch.set(Watch(seconds=seconds, reporter=reporter))
    try:
        yield
    finally:
        _watch.reset(token)


async def reported(cause: str, detail: str = "") -> str:
    """Have a report written on a hang; how to name it at the end of a message, or nothing where there is none.

    `detail`: what is known already, over many lines.
    """
    reporter = _watch.get().reporter
    if reporter is None:
        return ""
    try:
        return f"; report: {await reporter(cause, detail)}"
    except Exception:
        logger.exception("no report on a hang (%s)", cause)
        return ""


async def waited(
    awaitable: Awaitable[Result],
    *,
    what: str,
    owner: str,
    seconds: float | None = None,
    progress: Callable[[], object] | None = None,
) -> Result:
    """What `awaitable` gives. Overdue, with `awaitable` cancelled, after `seconds` without it.

    `seconds`: None for the run's deadline (hang_timeout_seconds), infinite where the owner's own waits have theirs.
    `progress`: what changes as long as the owner is at work; each change begins the deadline anew.
    """
    wait = Wait(what=what, owner=owner, seconds=_watch.get().seconds if seconds is None else seconds)
    number = next(_numbers)
    _pending[number] = wait
    try:
        if math.isinf(wait.seconds):
            return await awaitable
        return await _in_time(asyncio.ensure_future(awaitable), wait, progress)
    finally:
        del _pending[number]


async def _in_time(task: "asyncio.Future[Result]", wait: Wait, progress: Callable[[], object] | None) -> Result:
    try:
        if not await _is_done_in_time(task, wait.seconds, progress):
            cause = f"{wait.owner}: no progress for {wait.seconds:g} s ({wait.what})"
            raise Overdue(wait, await reported(cause))
        return task.result()
    finally:
        if not task.done():
            task.cancel()


async def _is_done_in_time(
    task: "asyncio.Future[Result]", seconds: float, progress: Callable[[], object] | None
) -> bool:
    # By looks, not by a clock: the loop's may be virtual.
    looks = 1 if progress is None else LOOKS_PER_DEADLINE
    seen, num_still = progress and progress(), 0
    while not task.done() and num_still < looks:
        await asyncio.wait([task], timeout=seconds / looks)
        num_still += 1
        if progress is not None and (now := progress()) != seen:
            seen, num_still = now, 0
    return task.done()
