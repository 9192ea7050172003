"""The one way to wait: with a deadline, and a name for who waits for what."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


class Stalled(RuntimeError):
    """Something took longer than it may."""


async def wait_for(awaitable: Awaitable[T], *, who: str, what: str, seconds: float) -> T:
    """The result of `awaitable`; Stalled, naming both sides, when it takes longer than `seconds`."""
    try:
        return await asyncio.wait_for(awaitable, seconds)
    except TimeoutError:
        raise Stalled(f"{who} waited {seconds:g} s for {what}") from None
