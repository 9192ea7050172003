"""The rollout fleet: all rollout workers as one, on the driver's event loop.

    generate ──► queue ──► dispatch ──► worker 0 ┐
                   ▲                    worker 1 ├──► harvest ──► trajectories
                   └── leases of a lost worker ──┘

A worker is given groups only while it has room, the one with the least work first. What it was given stays
leased to it until the whole group is back; when it is lost, its groups return to the head of the queue.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from actors.messages import GroupRequest, GroupResult, RolloutSpec, StartFacts
from actors.rollout import check_length
from actors.rollout_handle import WorkerHandle, WorkerLost
from experience.records import BlockHandle, Prompt, Sampling, TokenBlock, Trajectory, Weights
from metrics.waits import waited

logger = logging.getLogger(__name__)


class FleetFailed(RuntimeError):
    """The fleet can sample no more: it was closed, or its workers are gone for good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ticket:
    """A group that somebody waits for."""

    prompt: Prompt
    sampling: Sampling
    future: asyncio.Future[tuple[Trajectory, ...]]


class RolloutFleet:
    """Fulfils `trainers.roles.Rollouts`. All methods belong to one event loop."""

    def __init__(self, spec: RolloutSpec, options: Mapping[str, Any] | None = None) -> None:
        """`options`: Ray's options for each worker's actor, its placement above all."""
        self.facts: dict[str, StartFacts] = {}
        self.workers: dict[str, WorkerHandle] = {}  # started, and not lost
        self._spec = spec
        self._options = options or {}
        self._weights: Weights | None = None
        self._tickets: dict[int, _Ticket] = {}
        self._queue: deque[int] = deque()
        self._lives: dict[str, asyncio.Task[None]] = {}
        self._num_tickets = self._num_names = 0
        self._is_dispatch_due = False
        self._failure: FleetFailed | None = None
        self._observers: list[asyncio.Future[None]] = []

    async def start(self) -> None:
        """Start all workers at once; returns when each has an engine. They serve from the first `load` on."""
        for _ in range(self._spec.config.num_workers):
            self.add_worker()
        await self._until(lambda: all(name in self.facts for name in self._lives))

    async def generate(self, prompt: Prompt, sampling: Sampling) -> tuple[Trajectory, ...]:
        """One group, in sample order. ValueError for a prompt too long, FleetFailed when no worker is left."""
        check_length(len(prompt.tokens), sampling.max_response_tokens, self._spec.max_model_len)
        if self._failure is not None:
            raise self._failure
        future = asyncio.get_running_loop().create_future()
        self._num_tickets += 1
        self._tickets[self._num_tickets] = _Ticket(prompt=prompt, sampling=sampling, future=future)
        self._queue.append(self._num_tickets)
        self._request_dispatch()
        # A worker that does not get on is replaced by its own deadlines.
        return await waited(future, what="a group", owner="rollout fleet", seconds=math.inf)

    async def load(self, weights: Weights) -> None:
        """Give every worker these weights, also those that join later."""
        self._weights = weights
        self._notify()
        await self._until(lambda: self.workers and all(at.weights is weights for at in self.workers.values()))

    async def block(self, handle: BlockHandle) -> TokenBlock:
        """The tokens behind a handle."""
        return await waited(handle, what="tokens", owner="object store")

    def __str__(self) -> str:
        return "; ".join([f"{len(self._queue)} groups in the queue", *map(str, self.workers.values())])

    def add_worker(self) -> str:
        """Start one more worker; its name."""
        name = f"rollout-{self._num_names}"
        self._num_names += 1
        self._lives[name] = asyncio.create_task(self._live(name))
        self._lives[name].add_done_callback(lambda life: self._bury(name, life))
        return name

    async def serving(self, name: str) -> None:
        """Wait until this worker holds the current weights."""
        await self._until(lambda: name in self.workers and self.workers[name].weights is self._weights is not None)

    async def remove_worker(self, name: str) -> None:
        """Give a worker no more groups, wait for those it has, and end it."""
        life = self._lives[name]
        if worker := self.workers.get(name):
            worker.is_draining = True
            self._notify()
        else:
            life.cancel()
        await waited(asyncio.wait([life]), what=f"the last groups of {name}", owner=name, seconds=math.inf)

    async def close(self) -> None:
        """End all workers at once. Whoever still waits for a group gets FleetFailed."""
        lives = list(self._lives.values())
        for life in lives:
            life.cancel()
        await waited(asyncio.gather(*lives, return_exceptions=True), what="the end", owner="rollout workers")
        self._fail(FleetFailed("the rollout fleet was closed"))

    async def _live(self, name: str) -> None:
        """A worker's place in the fleet: the process that fills it is replaced when it is lost."""
        for restarts_left in reversed(range(self._spec.config.max_restarts + 1)):
            worker = WorkerHandle(name, self._spec, self._options)
            try:
                self.facts[name] = await worker.start()
                self.workers[name] = worker
                self._notify()
                await self._serve(worker)
                return
            except WorkerLost as loss:
                if restarts_left == 0:
                    raise
                logger.warning("%s; its %d groups go back, and a new process takes its place", loss, len(worker.leased))
            finally:
                self.workers.pop(name, None)
                self._give_back(worker)
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
            assert self._weights is not None
            await worker.load(self._weights)
            self._notify()
            self._request_dispatch()

    async def _harvest(self, worker: WorkerHandle) -> None:
        while True:
            harvest, block = await worker.collect()
            for group in harvest.groups:
                ticket = self._tickets.pop(group.ticket)
                if not ticket.future.done():  # its caller may have been cancelled
                    ticket.future.set_result(trajectories(ticket.prompt, group, block, worker.name))
            self._notify()
            self._request_dispatch()

    def _request_dispatch(self) -> None:
        """Dispatch at the end of this turn of the event loop, so that prompts of one moment go together."""
        if not self._is_dispatch_due:
            self._is_dispatch_due = True
            asyncio.get_running_loop().call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._is_dispatch_due = False
        while self._queue:
            number = self._queue[0]
            ticket = self._tickets[number]
            free = [worker for worker in self.workers.values() if self._may_take(worker, ticket)]
            if ticket.future.done():
                del self._tickets[number]
            elif free:
                min(free, key=lambda worker: worker.num_unfinished).assign(group_request(number, ticket))
            else:
                return
            self._queue.popleft()

    def _may_take(self, worker: WorkerHandle, ticket: _Ticket) -> bool:
        is_serving = worker.weights is not None and not worker.is_draining
        return is_serving and worker.has_room_for(ticket.sampling.num_samples)

    def _give_back(self, worker: WorkerHandle) -> None:
        self._queue.extendleft(reversed(worker.leased))
        self._notify()
        self._request_dispatch()

    def _bury(self, name: str, life: asyncio.Task[None]) -> None:
        """A place is given up. The last one, or one that no restart can mend, ends the fleet."""
        del self._lives[name]
        error = None if life.cancelled() else life.exception()
        if error is not None:
            logger.error("%s is given up: %s", name, error)
        if isinstance(error, WorkerLost) and not self._lives:
            self._fail(FleetFailed(f"no rollout worker is left; the last: {error}"))
        elif error is not None and not isinstance(error, WorkerLost):
            self._fail(FleetFailed(str(error)))
        self._notify()

    def _fail(self, failure: FleetFailed) -> None:
        self._failure = self._failure or failure
        for ticket in self._tickets.values():
            if not ticket.future.done():
                ticket.future.set_exception(failure)
        self._tickets.clear()
        self._queue.clear()
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


def group_request(number: int, ticket: _Ticket) -> GroupRequest:
    """The ticket as its worker sees it."""
    prompt = ticket.prompt
    return GroupRequest(ticket=number, ordinal=prompt.ordinal, tokens=prompt.tokens, sampling=ticket.sampling)


def trajectories(prompt: Prompt, group: GroupResult, block: BlockHandle, worker: str) -> tuple[Trajectory, ...]:
    """The group's records, as the loop knows them."""
    return tuple(
        Trajectory(
            prompt=prompt,
            sample_index=index,
            block=block,
            row=sample.row,
            num_prompt_tokens=sample.num_prompt_tokens,
            num_response_tokens=sample.num_response_tokens,
            text=sample.text,
            finish_reason=sample.finish_reason,
            min_version=sample.min_version,
            max_version=sample.max_version,
            mean_logprob=sample.mean_logprob,
            worker=worker,
        )
        for index, sample in enumerate(group.samples)
    )
