"""Weights that lie on their ranks' devices, offered to whoever is there to receive them."""

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from actors.messages import ChannelSpec
from actors.ranks import TrainerGroupError
from experience.records import Weights
from metrics.waits import waited


class Outdated(RuntimeError):
    """The ranks have gone on from these weights; newer ones will be offered."""


class WeightsGone(RuntimeError):
    """Published weights that nobody has any more: the rank that published them died, or its node."""


class Holders(Protocol):
    """The ranks that hold the weights (actors/trainer.py). Their weights are others whenever `num_changes` is."""

    num_changes: int

    async def listen(self) -> tuple[str, int]:
        """Where rank 0 will wait for the other ends of a channel."""
        ...

    async def meet(self, spec: ChannelSpec) -> str | None:
        """Wait for them; why they can't be met, if so."""
        ...

    async def send(self) -> str | None:
        """All weights into the channel that was joined; why not all were sent, if so."""
        ...

    async def store(self, version: int) -> Weights:
        """The weights in Ray's object store."""
        ...


class Offer:
    """One version, as long as its ranks hold it. Outdated when they don't, WeightsGone when they are gone."""

    def __init__(self, holders: Holders, weights: Weights) -> None:
        """`weights`: its handle has each bucket's facts and fingerprint, and no bytes."""
        self.holders = holders
        self.weights = weights
        self._as_of = holders.num_changes
        self._stored: asyncio.Future[Weights] | None = None

    async def open(self, size: int, *, timeout_seconds: float, use_gpu: bool) -> ChannelSpec:
        """A channel of so many processes, of which rank 0 has place 0; not joined yet."""
        with _told():
            host, port = await self.holders.listen()
        return ChannelSpec(host=host, port=port, size=size, timeout_seconds=timeout_seconds, use_gpu=use_gpu)

    async def meet(self, spec: ChannelSpec) -> str | None:
        """See Holders."""
        with _told():
            return await self.holders.meet(spec)

    async def send(self) -> str | None:
        """See Holders. What is asked of the ranks after this was begun finds them when they have sent all."""
        self._check()
        with _told():
            return await self.holders.send()

    async def stored(self) -> Weights:
        """The same weights by way of the object store, for a worker that comes alone."""
        if self._stored is None:
            self._stored = asyncio.ensure_future(self._store())
        shared = asyncio.shield(self._stored)  # several may wait for it
        return await waited(shared, what="weights in the store", owner="trainer ranks", seconds=math.inf)

    async def _store(self) -> Weights:
        self._check()
        with _told():
            return await self.holders.store(self.weights.version)

    def _check(self) -> None:
        if self.holders.num_changes != self._as_of:
            raise Outdated(f"weights version {self.weights.version} are not the ranks' any more")


@contextmanager
def _told() -> Iterator[None]:
    """Inside, ranks that are gone are weights that are."""
    try:
        yield
    except TrainerGroupError as error:
        raise WeightsGone(str(error)) from None
