"""Stopping in order: by signal, by the clock or on request; what was trained is saved, and the run can be resumed."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

from cluster.signals import Interrupted, handled_by

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class Stopped(Exception):
    """The run was stopped while nothing was trained yet, so there is nothing to save."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"stopped before the first step ({reason}); the same command begins again")


class Stop:
    """The one way to ask a run to end: `request`. Made once a run.

    A loop that trains ends with the step that is being trained. One that still waits for samples after `grace_seconds`
    gives that step up. Before there is a loop, the work is cancelled.
    """

    def __init__(self, *, grace_seconds: float, max_hours: float | None = None) -> None:
        self.reason: str | None = None
        self._grace_seconds, self._max_hours = grace_seconds, max_hours
        self._task: asyncio.Task[Any] | None = None
        self._is_second = False
        self._end_loop: Callable[[], None] | None = None

    def request(self, reason: str) -> None:
        """End in order; to be called on the run's event loop. The first reason stays."""
        if self.reason is not None:
            return
        self.reason = reason
        assert self._task is not None, "a run that is not there can't be stopped"
        if self._end_loop is None:
            self._task.cancel()
        else:
            self._end_loop()

    async def guards(self, work: Coroutine[Any, Any, Result]) -> Result:
        """What `work` gives; meanwhile signals and the clock stop it. Stopped or Interrupted when that cancelled it."""
        self._task = asyncio.current_task()
        with handled_by(self._receive), self._timed():
            try:
                return await work
            except asyncio.CancelledError:
                if self._is_second:
                    raise Interrupted("stopped at once; the last checkpoint is as it was") from None
                if self.reason is not None:
                    raise Stopped(self.reason) from None
                raise
            except SystemExit as exit:
                if exit.code != signal.SIGTERM:
                    raise
                raise Stopped("SIGTERM") from None  # while Ray starts, it has its own handler

    @contextlib.contextmanager
    def ends(self, stop: Callable[[], None], give_up: Callable[[], None] | None = None) -> Iterator[None]:
        """Inside, a request calls `stop`, and after the grace `give_up`; nothing is cancelled."""
        timers: list[asyncio.TimerHandle] = []

        def end() -> None:
            logger.warning("stopping after this step (%s)", self.reason)
            stop()
            if give_up is not None:
                timers.append(asyncio.get_running_loop().call_later(self._grace_seconds, give_up))

        self._end_loop = end
        try:
            yield
        finally:
            self._end_loop = None
            for timer in timers:
                timer.cancel()

    def _receive(self, signal_name: str) -> None:
        if self.reason is not None and self._task is not None:
            self._is_second = True
            self._task.cancel()
        else:
            self.request(f"{signal_name}; again to end at once")

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        if self._max_hours is None:
            yield
            return
        reason = f"max_hours={self._max_hours:g}"
        timer = asyncio.get_running_loop().call_later(3600 * self._max_hours, self.request, reason)
        try:
            yield
        finally:
            timer.cancel()
