"""Rollout workers by their messages alone, under the real fleet: no Ray, no engine."""

import asyncio
import heapq
import pickle
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from actors.fleet import RolloutFleet
from actors.messages import (
    GroupRequest,
    GroupResult,
    Harvest,
    Progress,
    RolloutSpec,
    SampleResult,
    StartFacts,
    WorkerStatus,
)
from actors.placement import Room
from actors.rollout_handle import WorkerHandle
from experience.records import Weights

GROUP_SIZE = 8
LOOK_SECONDS = 0.02  # an engine's step: what is finished in one comes back together
NUM_TOKENS = 200  # of a prompt, and of the shortest response
TEXT = "so the answer must be " * 10


class Played:
    """CPU seconds spent on playing the workers, which are not the controller's own."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._since = 0.0

    def __enter__(self) -> None:
        self._since = time.thread_time()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.thread_time() - self._since


class Method:
    """A method of a modelled actor, called as Ray's are."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.num_calls = 0
        self._call = call

    def remote(self, *args: Any) -> Any:
        """What Ray would give a handle of."""
        self.num_calls += 1
        return self._call(*args)


class ModelledActor:
    """A rollout worker by its messages alone: groups take a while, and what is finished at a look comes back together.

    Messages are pickled and unpickled as between processes: what the driver sends and gets is counted, the rest not.
    """

    def __init__(self, played: Played, mean_seconds: float, seed: int) -> None:
        self._played, self._mean_seconds = played, mean_seconds
        self._random = random.Random(seed)
        self._ends: list[tuple[float, int]] = []  # heap: when a group is finished, its ticket
        self._version: int | None = None
        self._num_steps = self._num_finished = 0
        self._wanted: asyncio.Future[Harvest] | None = None
        self.start, self.load, self.status = Method(self._start), Method(self._load), Method(self._status)
        self.submit, self.collect = Method(self._submit), Method(self._collect)

    @property
    def num_calls(self) -> int:
        """Of its methods, since the start."""
        methods = (self.start, self.load, self.status, self.submit, self.collect)
        return sum(method.num_calls for method in methods)

    def look(self) -> None:
        """A step of its engine: whoever waits gets what is finished."""
        with self._played:
            self._num_steps += 1
            now, tickets = time.monotonic(), []
            while self._wanted and self._ends and self._ends[0][0] <= now:
                tickets.append(heapq.heappop(self._ends)[1])
            if not tickets:
                return
            self._num_finished += len(tickets) * GROUP_SIZE
            groups = tuple(group_result(ticket, self._version or 0) for ticket in tickets)
            message = pickle.dumps(Harvest(groups=groups, progress=self._progress()))
        assert self._wanted is not None
        self._wanted.set_result(pickle.loads(message))
        self._wanted = None

    async def _start(self) -> StartFacts:
        return StartFacts(import_seconds=0, engine_seconds=0, warm_up_seconds=0, node="here")

    async def _load(self, weights: Weights) -> str:
        self._version = weights.version
        return weights.checksum

    async def _submit(self, requests: Sequence[GroupRequest]) -> None:
        message = pickle.dumps(requests)
        with self._played:
            assert message
            for request in requests:
                end = time.monotonic() + self._mean_seconds * self._random.uniform(0.5, 1.5)
                heapq.heappush(self._ends, (end, request.ticket))

    def _collect(self) -> tuple[None, asyncio.Future[Harvest]]:
        self._wanted = asyncio.get_running_loop().create_future()
        return None, self._wanted

    async def _status(self) -> WorkerStatus:
        return WorkerStatus(version=self._version, num_unfinished=0, progress=self._progress(), error=None)

    def _progress(self) -> Progress:
        return Progress(
            num_steps=self._num_steps,
            num_tokens=self._num_finished * NUM_TOKENS,
            num_finished=self._num_finished,
            busy_seconds=self._num_steps * LOOK_SECONDS,
        )


def group_result(ticket: int, version: int) -> GroupResult:
    """A group's samples, all by one version."""
    samples = (
        SampleResult(
            row=row,
            num_prompt_tokens=NUM_TOKENS,
            num_response_tokens=NUM_TOKENS + row,
            text=TEXT,
            finish_reason="stop",
            min_version=version,
            max_version=version,
            mean_logprob=-1.0,
        )
        for row in range(GROUP_SIZE)
    )
    return GroupResult(ticket=ticket, samples=tuple(samples))


class ModelledFleet(RolloutFleet):
    """The real fleet with modelled actors, which look up at the same moments."""

    def __init__(self, spec: RolloutSpec, mean_seconds: float) -> None:
        super().__init__(spec, room=Anywhere(group=None, bundles=(), nodes=()))  # type: ignore[arg-type]
        self.played = Played()
        self.actors: list[ModelledActor] = []
        fleet = self

        class Handle(WorkerHandle):
            """The real handle of a modelled actor."""

            def _employ(self, spec: RolloutSpec, options: Mapping[str, Any]) -> ModelledActor:
                fleet.actors.append(ModelledActor(fleet.played, mean_seconds, seed=len(fleet.actors)))
                return fleet.actors[-1]

            def kill(self) -> None:
                """There is no process."""

        self.handle_class = Handle

    @property
    def num_calls(self) -> int:
        """Of all actors' methods, since the start."""
        return sum(actor.num_calls for actor in self.actors)

    async def look(self) -> None:
        """Have all actors look up, for ever."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            for actor in self.actors:
                actor.look()
            due = max(due + LOOK_SECONDS, loop.time())
            await asyncio.sleep(due - loop.time())


class Anywhere(Room):
    """Room on no cluster."""

    def options(self, bundle: int) -> dict[str, Any]:
        """None: there is no actor to place."""
        return {}
