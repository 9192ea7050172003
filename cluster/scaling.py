"""How many rollout workers a run has: by request, or by how long the trainer waits for them."""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Mapping
from typing import Protocol

from actors.fleet import RolloutFleet
from cluster.control import ScaleRequest
from configs.schema.rollout import AutoscaleConfig
from metrics.waits import waited

logger = logging.getLogger(__name__)


class Scaler:
    """Changes one fleet, one change after the other."""

    def __init__(self, fleet: RolloutFleet) -> None:
        self._fleet = fleet
        self._one_at_a_time = asyncio.Lock()

    async def requested(self, request: ScaleRequest) -> str:
        """See `scale`."""
        return await self.scale(request.rollout)

    async def scale(self, num_workers: int) -> str:
        """Start workers until there are so many, or let the newest ones finish what they have, and go.

        Returns when the new ones serve, or the old ones are gone. PlacementRefused when there is no room for all of
        the new ones: those that found room stay.
        """
        async with self._one_at_a_time:
            before = self._fleet.names
            if num_workers >= len(before):
                joined = [self._fleet.add_worker() for _ in range(num_workers - len(before))]
                waits = [self._fleet.serving(name) for name in joined]
            else:
                waits = [self._fleet.remove_worker(name) for name in before[num_workers:]]
            # Workers that don't start, or don't come to an end, are given up by deadlines of their own.
            changes = asyncio.gather(*waits, return_exceptions=True)
            for result in await waited(changes, what="a change of number", owner="rollout workers", seconds=math.inf):
                if isinstance(result, BaseException):
                    raise result
            return f"{len(before)} -> {len(self._fleet.names)} rollout workers: {', '.join(self._fleet.names)}"


class Scalable(Protocol):
    """What is scaled."""

    async def scale(self, num_workers: int) -> str:
        """See `Scaler.scale`."""
        ...


class Staffed(Protocol):
    """What has workers."""

    @property
    def names(self) -> tuple[str, ...]:
        """Theirs."""
        ...


class Autoscaler:
    """Watches the steps, and asks for one worker more or less when several in a row agree."""

    def __init__(self, config: AutoscaleConfig, scaler: Scalable, fleet: Staffed) -> None:
        self._config, self._scaler, self._fleet = config, scaler, fleet
        self._wishes: deque[int] = deque(maxlen=config.steps)
        self._change: asyncio.Task[None] | None = None

    def after_step(self, metrics: Mapping[str, float]) -> None:
        """Look at one step's metrics."""
        if self._change is not None and not self._change.done():
            return
        self._wishes.append(wish(self._config, metrics, len(self._fleet.names)))
        agreed = set(self._wishes)
        if len(self._wishes) == self._config.steps and len(agreed) == 1 and agreed != {0}:
            self._wishes.clear()
            self._change = asyncio.create_task(self._scale(len(self._fleet.names) + agreed.pop()))

    def close(self) -> None:
        """Ask for nothing more."""
        if self._change is not None:
            self._change.cancel()

    async def _scale(self, num_workers: int) -> None:
        try:
            logger.warning("autoscale: %s", await self._scaler.scale(num_workers))
        except ValueError as refused:
            logger.warning("autoscale: %s", refused)


def wish(config: AutoscaleConfig, metrics: Mapping[str, float], num_workers: int) -> int:
    """1: a worker more, -1: one less, 0: as it is.

    The trainer waits: more. The workers have nothing to do: less. Under a strict turn-taking both hold; then the
    trainer's wait decides, since a step gets shorter by it.
    """
    if num_workers < config.min_workers:
        return 1
    if num_workers > config.max_workers:
        return -1
    if metrics.get("share/generate", 0.0) > config.wait_share:
        return 1 if num_workers < config.max_workers else 0
    if metrics.get("rollout/idle_fraction", 0.0) > config.idle_share:
        return -1 if num_workers > config.min_workers else 0
    return 0
