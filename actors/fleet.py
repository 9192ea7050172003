"""The rollout fleet: all rollout workers as one, on the driver's event loop.

    generate ──► leases ──► worker 0 ┐
                   ▲        worker 1 ├──► harvest ──► trajectories
                   └── of a lost one ┘

Workers join and leave while it samples. Each has its place (room on the cluster, a life with some restarts); a place
holds one process at a time, which serves once it has proven that it holds the current weights.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from actors.fleet_report import FleetReport
from actors.leases import Leases
from actors.messages import RolloutSpec, StartFacts
from actors.pace import slownesses
from actors.placement import SECONDS_TO_PLACE, PlacementRefused, reserved
from actors.rollout import check_length
from actors.rollout_handle import SECONDS_BETWEEN_LOOKS, WorkerHandle, WorkerLost, resources
from experience.records import BlockHandle, Prompt, Sampling, TokenBlock, Trajectory, Weights
from metrics.waits import waited

logger = logging.getLogger(__name__)


class FleetFailed(RuntimeError):
    """The fleet can sample no more: it was closed, or its workers are gone for good."""


class RolloutFleet:
    """Fulfils `trainers.roles.Rollouts`. All methods belong to one event loop."""

    def __init__(self, spec: RolloutSpec, *, seconds_to_place: float = SECONDS_TO_PLACE) -> None:
        self.facts: dict[str, StartFacts] = {}
        self.workers: dict[str, WorkerHandle] = {}  # started, and not lost
        self.num_restarts = 0
        self.leases = Leases(self.workers, free=lambda: [w for w in self.workers.values() if self._may_take(w)])
        self._spec = spec
        self._seconds_to_place = seconds_to_place
        self._weights: Weights | None = None
        self._lives: dict[str, asyncio.Task[None]] = {}
        self._leaving: set[str] = set()
        self._num_names = 0
        self._failure: FleetFailed | None = None
        self._observers: list[asyncio.Future[None]] = []
        self._pacing: asyncio.Task[None] | None = None
        self._report = FleetReport()

    async def start(self) -> None:
        """Start all workers at once; returns when each has an engine. They serve from the first `load` on.

        PlacementRefused when the cluster has no room for all of them.
        """
        lives = [self._lives[self.add_worker()] for _ in range(self._spec.config.num_workers)]
        self._pacing = asyncio.create_task(self._keep_pace())
        await self._until(lambda: all(name in self.facts for name in self._lives))
        for life in lives:
            if life.done():
                life.result()

    async def generate(self, prompt: Prompt, sampling: Sampling) -> tuple[Trajectory, ...]:
        """One group, in sample order. ValueError for a prompt too long, FleetFailed when no worker is left."""
        check_length(len(prompt.tokens), sampling.max_response_tokens, self._spec.max_model_len)
        if self._failure is not None:
            raise self._failure
        # A worker that does not get on is replaced by its own deadlines.
        asked = self.leases.ask(prompt, sampling)
        return await waited(asked, what="a group", owner="rollout fleet", seconds=math.inf)

    async def load(self, weights: Weights) -> None:
        """Give every worker these weights, also those that join later."""
        self._weights = weights
        self._notify()
        await self._until(lambda: self.workers and all(at.weights is weights for at in self.workers.values()))

    async def block(self, handle: BlockHandle) -> TokenBlock:
        """The tokens behind a handle."""
        if isinstance(handle, TokenBlock):
            return handle
        return await waited(handle, what="tokens", owner="object store")

    def metrics(self) -> Mapping[str, float]:
        """What the workers did since the last call."""
        return self._report.metrics(self.workers, num_restarts=self.num_restarts, num_backups=self.leases.num_backups)

    @property
    def names(self) -> tuple[str, ...]:
        """All places that are not to leave, oldest first; some may just be starting."""
        return tuple(name for name in self._lives if name not in self._leaving)

    def __str__(self) -> str:
        return "; ".join([f"{self.leases.num_waiting} groups in the queue", *map(str, self.workers.values())])

    def add_worker(self) -> str:
        """Start one more worker; its name."""
        name = f"rollout-{self._num_names}"
        self._num_names += 1
        self._lives[name] = asyncio.create_task(self._live(name))
        self._lives[name].add_done_callback(lambda life: self._bury(name, life))
        return name

    async def serving(self, name: str) -> None:
        """Wait until this worker holds the current weights. What ended its place, if it ends first."""
        life = self._lives[name]
        await self._until(
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
            self._notify()
        else:
            life.cancel()
        await waited(asyncio.wait([life]), what=f"the last groups of {name}", owner=name, seconds=math.inf)

    async def close(self) -> None:
        """End all workers at once. Whoever still waits for a group gets FleetFailed."""
        tasks = [*self._lives.values(), *([self._pacing] if self._pacing else [])]
        for task in tasks:
            task.cancel()
        await waited(asyncio.gather(*tasks, return_exceptions=True), what="the end", owner="rollout workers")
        self._fail(FleetFailed("the rollout fleet was closed"))

    async def _live(self, name: str) -> None:
        """A worker's place in the fleet: the process that fills it is replaced when it is lost."""
        for restarts_left in reversed(range(self._spec.config.max_restarts + 1)):
            try:
                await self._fill(name)
                return
            except WorkerLost as loss:
                if name in self._leaving:
                    logger.warning("%s; its groups go back, and as it was to leave, nothing takes its place", loss)
                    return
                if restarts_left == 0:
                    raise
                self.num_restarts += 1
                logger.warning("%s; its groups go back, and a new process takes its place", loss)

    async def _fill(self, name: str) -> None:
        """One process in a place, from its start until it is lost (WorkerLost) or drained."""
        async with reserved(name, resources(self._spec), self._seconds_to_place) as options:
            worker = WorkerHandle(name, self._spec, options)
            try:
                self.facts[name] = await worker.start()
                self.workers[name] = worker
                self._notify()
                await self._serve(worker)
            finally:
                self.workers.pop(name, None)
                self.leases.give_back(worker)
                self._notify()
                worker.kill()

    async def _serve(self, worker: WorkerHandle) -> None:
        """Keep a started worker busy until it is lost (WorkerLost) or drained."""
        await race(
            self._keep_current(worker),
            worker.deliver(),
            self._harvest(worker),
            worker.watch(),
            self._until(lambda: worker.is_draining and not worker.leased),
        )

    async def _keep_current(self, worker: WorkerHandle) -> None:
        while True:
            await self._until(lambda: worker.weights is not self._weights)
            if self._spec.config.weight_update == "between_requests":
                await self._until(lambda: not worker.leased)
            assert self._weights is not None
            await worker.load(self._weights)
            self._notify()
            self.leases.request_dispatch()

    async def _harvest(self, worker: WorkerHandle) -> None:
        while True:
            harvest, block = await worker.collect()
            for group in harvest.groups:
                self.leases.settle(group, block, worker)
            self._notify()
            self.leases.request_dispatch()

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
        self._notify()

    def _fail(self, failure: FleetFailed) -> None:
        self._failure = self._failure or failure
        self.leases.fail(failure)
        self._notify()

    async def _until(self, condition: Callable[[], object]) -> None:
        """Wait for a condition on the fleet's state. FleetFailed when it fails before."""
        while True:
            if self._failure is not None:
                raise self._failure
            if condition():
                return
            self._observers.append(asyncio.get_running_loop().create_future())
            await waited(self._observers[-1], what="a change", owner="rollout fleet", seconds=math.inf)

    def _notify(self) -> None:
        """Let everybody in `_until` look again."""
        observers, self._observers = self._observers, []
        for observer in observers:
            if not observer.done():
                observer.set_result(None)


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
