"""Waiting for what tasks of one event loop change of a common state."""

import asyncio
import math
from collections.abc import Callable, Coroutine
from typing import Any

from metrics.waits import waited


class Changes:
    """Whoever waits looks again after each change. `failure`: raised to all of them from then on."""

    def __init__(self, owner: str) -> None:
        self.failure: Exception | None = None
        self._owner = owner
        self._observers: list[asyncio.Future[None]] = []

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until it holds, or raise the failure that came before."""
        while True:
            if self.failure is not None:
                raise self.failure
            if condition():
                return
            self._observers.append(asyncio.get_running_loop().create_future())
            await waited(self._observers[-1], what="a change", owner=self._owner, seconds=math.inf)

    def tell(self) -> None:
        """Something has changed."""
        observers, self._observers = self._observers, []
        for observer in observers:
            if not observer.done():
                observer.set_result(None)

    def fail(self, failure: Exception) -> None:
        """Nothing more will change; the first failure stays."""
        self.failure = self.failure or failure
        self.tell()


async def race(*rivals: Coroutine[Any, Any, None]) -> None:
    """Run all until the first one ends, with its result or its error; the others are cancelled."""
    tasks = [asyncio.create_task(rival) for rival in rivals]
    try:
        ended = asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        done, _ = await waited(ended, what="the first to end", owner="a worker's tasks", seconds=math.inf)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await waited(asyncio.gather(*tasks, return_exceptions=True), what="the end", owner="a worker's tasks")
