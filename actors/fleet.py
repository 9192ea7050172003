"""The rollout fleet: all rollout workers as one, on the driver's event loop.

    generate ──► leases ──► worker 0 ┐
                   ▲        worker 1 ├──► harvest ──► trajectories
                   └── of a lost one ┘

Workers join and leave while it samples. Each has its place (room on the cluster, a life with some restarts); a place
holds one process at a time, which serves once it has proven that it holds the current weights.

Where engines share their devices with the trainer, the fleet sleeps while that is awake. It wakes with the next load.
"""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from ray.exceptions import ObjectLostError

from actors.changes import Changes, race
from actors.fleet_report import FleetReport
from actors.leases import Leases
from actors.messages import RolloutSpec, StartFacts
from actors.offers import Outdated, WeightsGone
from actors.pace import harvest_pause, slownesses
from actors.placement import SECONDS_TO_PLACE, PlacementRefused, Room
from actors.ranks import RanksLost
from actors.rollout import check_length
from actors.rollout_handle import (
    SECONDS_BETWEEN_LOOKS,
    WorkerHandle,
    WorkerLost,
    one_line,
    resources,
)
from actors.rooms import Rooms
from actors.rounds import Rounds
from experience.records import BlockHandle, Prompt, Sampling, TokenBlock, Trajectory, Weights
from metrics.waits import waited

logger = logging.getLogger(__name__)


class FleetFailed(RuntimeError):
    """The fleet can sample no more: it was closed, or its workers are gone for good."""


class RolloutFleet:
    """Fulfils `trainers.roles.Rollouts`. All methods belong to one event loop."""

    handle_class = WorkerHandle

    def __init__(
        self, spec: RolloutSpec, *, room: Room | None = None, seconds_to_place: float = SECONDS_TO_PLACE
    ) -> None:
        """`room`: a bundle for each worker, which stays the caller's; none: the fleet finds room for each."""
        self.facts: dict[str, StartFacts] = {}
        self.workers: dict[str, WorkerHandle] = {}  # started, and not lost
        self.num_restarts = 0
        self.leases = Leases(self.workers, free=lambda: [w for w in self.workers.values() if self._may_take(w)])
        self._spec = spec
        self._room = room
        self._rooms = Rooms(spec.config.placement, seconds_to_place)
        self._weights: Weights | None = None
        self._gone: RanksLost | None = None  # why nobody can load these weights
        self._is_asleep = False
        self._starting: set[str] = set()
        self._lives: dict[str, asyncio.Task[None]] = {}
        self._leaving: set[str] = set()
        self._num_names = 0
        self._changes = Changes("rollout fleet")
        self._pacing: asyncio.Task[None] | None = None
        self._report = FleetReport()
        self._rounds = Rounds(spec, self.workers)

    async def start(self) -> None:
        """Start all workers at once; returns when each has an engine. They serve from the first `load` on.

        PlacementRefused when the cluster has no room for all of them.
        """
        lives = [self._lives[self.add_worker()] for _ in range(self._spec.config.num_workers)]
        self._pacing = asyncio.create_task(self._keep_pace())
        await self._changes.until(lambda: all(name in self.facts for name in self._lives))
        for life in lives:
            if life.done():
                life.result()

    async def generate(self, prompt: Prompt, sampling: Sampling) -> tuple[Trajectory, ...]:
        """One group, in sample order. ValueError for a prompt too long, FleetFailed when no worker is left."""
        check_length(len(prompt.tokens), sampling.max_response_tokens, self._spec.max_model_len)
        if self._changes.failure is not None:
            raise self._changes.failure
        # A worker that does not get on is replaced by its own deadlines.
        asked = self.leases.ask(prompt, sampling)
        return await waited(asked, what="a group", owner="rollout fleet", seconds=math.inf)

    async def load(self, weights: Weights) -> None:
        """Give every worker these weights, also those that join later. RanksLost when who published them is gone."""
        self._weights, self._gone, self._is_asleep = weights, None, False
        self._changes.tell()
        await self._changes.until(
            lambda: self._gone or (self.workers and all(at.weights is weights for at in self.workers.values()))
        )
        if self._gone is not None:
            raise self._gone

    async def sleep(self) -> None:
        """Have every engine leave its device's memory to others, until the next `load`.

        Groups that are still out wait until then, and so does the replacement of a lost worker, whose engine would
        take that memory. A fleet that failed has no engines any more.
        """
        self._is_asleep = True
        self._changes.tell()
        try:
            await self._changes.until(lambda: not self._starting and all(at.is_asleep for at in self.workers.values()))
        except FleetFailed:
            await self.close()

    async def block(self, handle: BlockHandle) -> TokenBlock:
        """The tokens behind a handle. RanksLost when they went with their node: new ranks go on from a checkpoint."""
        if isinstance(handle, TokenBlock):
            return handle
        try:
            return await waited(handle, what="tokens", owner="object store")
        except ObjectLostError as error:
            raise RanksLost(f"samples are gone with their node: {one_line(error)}") from None

    def metrics(self) -> Mapping[str, float]:
        """What the workers did since the last call."""
        return self._report.metrics(self.workers, num_restarts=self.num_restarts, num_backups=self.leases.num_backups)

    @property
    def places(self) -> tuple[str, ...]:
        """All of them, oldest first, with those that are to leave."""
        return tuple(self._lives)

    @property
    def names(self) -> tuple[str, ...]:
        """All places that are not to leave, oldest first; some may just be starting."""
        return tuple(name for name in self._lives if name not in self._leaving)

    def __str__(self) -> str:
        return "; ".join([f"{self.leases.num_waiting} groups in the queue", *map(str, self.workers.values())])

    def add_worker(self) -> str:
        """Start one more worker; its name."""
        number, name = self._num_names, f"rollout-{self._num_names}"
        self._num_names += 1
        self._lives[name] = asyncio.create_task(self._live(name, number))
        self._lives[name].add_done_callback(lambda life: self._bury(name, life))
        return name

    async def serving(self, name: str) -> None:
        """Wait until this worker holds the current weights. What ended its place, if it ends first."""
        life = self._lives[name]
        await self._changes.until(
            lambda: life.done() or (name in self.workers and self.workers[name].weights is self._weights is not None)
        )
        if life.done():
            life.result()

    async def remove_worker(self, name: str) -> None:
        """Give a worker no more groups, wait for those it has, and end it. It is not replaced when it is lost."""
        life = self._lives[name]
        self._leaving.add(name)
        if worker := self.workers.get(name):
            worker.is_draining = True
            self._changes.tell()
        else:
            life.cancel()
        await waited(asyncio.wait([life]), what=f"the last groups of {name}", owner=name, seconds=math.inf)

    async def close(self) -> None:
        """End all workers at once. Whoever still waits for a group gets FleetFailed."""
        tasks = [*self._lives.values(), *([self._pacing] if self._pacing else [])]
        for task in tasks:
            task.cancel()
        await self._rounds.close()
        await waited(asyncio.gather(*tasks, return_exceptions=True), what="the end", owner="rollout workers")
        self._fail(FleetFailed("the rollout fleet was closed"))

    async def _live(self, name: str, number: int) -> None:
        """A worker's place in the fleet: the process that fills it is replaced when it is lost."""
        for restarts_left in reversed(range(self._spec.config.max_restarts + 1)):
            try:
                await self._changes.until(lambda: not self._is_asleep)
                self._starting.add(name)
                await self._fill(name, number)
                return
            except WorkerLost as loss:
                if name in self._leaving:
                    logger.warning("%s; its groups go back, and as it was to leave, nothing takes its place", loss)
                    return
                if restarts_left == 0:
                    raise
                self.num_restarts += 1
                logger.warning("%s; its groups go back, and a new process takes its place", loss)
            finally:
                self._starting.discard(name)
            self._changes.tell()  # whoever waits for starts: this one has failed

    async def _fill(self, name: str, number: int) -> None:
        """One process in a place, from its start until it is lost (WorkerLost) or drained."""
        async with self._place(name, number) as options:
            worker = self.handle_class(name, self._spec, options)
            try:
                self.facts[name] = await worker.start()
                self._starting.remove(name)
                self.workers[name] = worker
                self._changes.tell()
                await self._serve(worker)
            finally:
                self.workers.pop(name, None)
                self.leases.give_back(worker)
                self._changes.tell()
                worker.kill()

    @asynccontextmanager
    async def _place(self, name: str, number: int) -> AsyncIterator[dict[str, Any]]:
        """The options of a worker that has room inside."""
        if self._room is not None:
            yield self._room.options(number)
            return
        async with self._rooms.reserved(name, resources(self._spec)) as room:
            yield room.options(0)

    async def _serve(self, worker: WorkerHandle) -> None:
        """Keep a started worker busy until it is lost (WorkerLost) or drained."""
        await race(
            self._keep_current(worker),
            worker.deliver(),
            self._harvest(worker),
            worker.watch(),
            self._changes.until(lambda: worker.is_draining and not worker.leased),
        )

    async def _keep_current(self, worker: WorkerHandle) -> None:
        while True:
            await self._changes.until(lambda: self._must_sleep(worker) or self._must_load(worker))
            if self._must_sleep(worker):
                self.leases.withdraw(worker)
                await worker.sleep()
            else:
                await self._load(worker)
                self.leases.request_dispatch()
            self._changes.tell()

    async def _load(self, worker: WorkerHandle) -> None:
        """Give it the current weights; where they are gone, wait for others."""
        weights = self._weights
        assert weights is not None
        try:
            await self._rounds.load(worker, weights)
        except WeightsGone as gone:
            self._lose(weights, gone)
            await self._changes.until(lambda: self._weights is not weights)
        except Outdated:
            await self._changes.until(lambda: self._weights is not weights)

    def _must_sleep(self, worker: WorkerHandle) -> bool:
        return self._is_asleep and not worker.is_asleep

    def _must_load(self, worker: WorkerHandle) -> bool:
        is_busy = self._spec.config.weight_update == "between_requests" and worker.leased
        return worker.weights is not self._weights and not self._is_asleep and not is_busy

    async def _harvest(self, worker: WorkerHandle) -> None:
        while True:
            harvest, block = await worker.collect()
            for group in harvest.groups:
                self.leases.settle(group, block, worker)
            self._changes.tell()
            self.leases.request_dispatch()
            await asyncio.sleep(harvest_pause(len(self.workers)))

    async def _keep_pace(self) -> None:
        """Watch for workers that are slower than the others, for ever."""
        while True:
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS / 4)
            paces = {name: worker.pace for name, worker in self.workers.items() if not worker.is_loading}
            at_work = [name for name in paces if self.workers[name].leased]
            slow = slownesses(paces, self._spec.config.slow_worker_factor, at_work)
            for name, pace in paces.items():
                if name in slow and pace.slowness == 1.0:
                    logger.warning("%s is %.1f times as slow as the others", name, slow[name])
                pace.slowness = slow.get(name, 1.0)
            if slow and self._spec.config.backup_leases:
                self.leases.back_up(slow)

    def _may_take(self, worker: WorkerHandle) -> bool:
        is_late = self._spec.config.weight_update == "between_requests" and worker.weights is not self._weights
        return worker.weights is not None and not worker.is_draining and not is_late

    def _bury(self, name: str, life: asyncio.Task[None]) -> None:
        """A place is given up. The last one, or one that no restart can mend, ends the fleet."""
        del self._lives[name]
        self._leaving.discard(name)
        error = None if life.cancelled() else life.exception()
        if error is not None:
            logger.error("%s is given up: %s", name, error)
        is_last = not self._lives
        if isinstance(error, WorkerLost) or (isinstance(error, PlacementRefused) and self._weights is not None):
            if is_last:
                self._fail(FleetFailed(f"no rollout worker is left; the last: {error}"))
        elif error is not None and not isinstance(error, PlacementRefused):
            self._fail(FleetFailed(str(error)))
        self._changes.tell()

    def _lose(self, weights: Weights, why: WeightsGone) -> None:
        """These weights are gone, and with them a rank of the learner: new ranks will publish others."""
        if self._weights is weights and self._gone is None:
            self._gone = RanksLost(f"weights version {weights.version} are gone with the rank that had them: {why}")
            self.leases.fail(self._gone)

    def _fail(self, failure: FleetFailed) -> None:
        self._changes.fail(failure)
        self.leases.fail(failure)
