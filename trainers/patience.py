"""Waiting for sampling and scoring, which may take for ever, until somebody has waited long enough."""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from metrics import activity
from metrics.waits import waited

Result = TypeVar("Result")


class GivenUp(Exception):
    """What was waited for is not worth waiting any longer."""


class Patience:
    """Of one run. It ends once, for all that is waited for."""

    def __init__(self) -> None:
        self._is_over = False
        self._waiting: set[asyncio.Future[Any]] = set()

    def end(self) -> None:
        """Wait no longer."""
        self._is_over = True
        for work in self._waiting:
            work.cancel()

    async def awaits(self, work: Awaitable[Result], *, what: str) -> Result:
        """What sampling and scoring give; GivenUp when patience ends before."""
        future = asyncio.ensure_future(work)
        self._waiting.add(future)
        if self._is_over:
            future.cancel()
        try:
            return await waited(future, what=what, owner="sampling and scoring", progress=activity.count)
        except asyncio.CancelledError:
            this = asyncio.current_task()
            if self._is_over and this is not None and not this.cancelling():
                raise GivenUp from None
            raise
        finally:
            self._waiting.discard(future)
