"""The driver's view of one rollout worker, from its birth to its loss."""

import asyncio
import math
import time
from collections.abc import Awaitable, Mapping
from typing import Any, NoReturn, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from actors.messages import EngineFailed, GroupRequest, Harvest, RolloutSpec, StartFacts, WorkerStatus
from actors.rollout import RolloutWorker, environment
from experience.records import BlockHandle, Weights
from metrics import activity
from metrics.waits import Overdue, reported, waited

Reply = TypeVar("Reply")


class WorkerLost(RuntimeError):
    """A rollout worker that can't serve any more. Its groups may be sampled by another one."""


class WorkerHandle:
    """One worker process. Its calls raise WorkerLost when it died, hangs or reports a broken engine.

    `leased`: the groups that it was given and has not brought back. A call that the worker refuses as a
    mistake of its caller raises ValueError.
    """

    def __init__(self, name: str, spec: RolloutSpec, options: Mapping[str, Any]) -> None:
        self.name = name
        self.leased: dict[int, GroupRequest] = {}
        self.weights: Weights | None = None
        self.is_draining = False
        self._config = spec.config
        self._is_loading = False
        self._outbox: list[GroupRequest] = []
        self._has_outbox = asyncio.Event()
        self._num_assigned = 0  # samples, since the start
        self._num_finished = 0
        resources = {"num_cpus": spec.config.threads_per_worker, "num_gpus": 1 if spec.use_gpu else 0}
        defaults = resources | {"runtime_env": {"env_vars": environment(spec)}, "max_restarts": 0}
        # With Ray's own restarts an actor would come back without weights and unknown to its fleet.
        self.actor: Any = ray.remote(RolloutWorker).options(**(defaults | dict(options))).remote(spec, name)

    async def start(self) -> StartFacts:
        """Wait until the engine runs."""
        return await self._reply("its start", self.actor.start.remote(), self._config.start_timeout_seconds)

    async def load(self, weights: Weights) -> None:
        """Give it these weights; returns when it has proven that it holds them."""
        self._is_loading = True
        reply = self.actor.load.remote(weights)
        checksum = await self._reply("loading weights", reply, self._config.start_timeout_seconds)
        self._is_loading = False
        if checksum != weights.checksum:
            raise WorkerLost(f"{self.name}: loaded checksum {checksum}, published was {weights.checksum}")
        self.weights = weights

    @property
    def num_unfinished(self) -> int:
        """Samples that it was given and has not finished, as of its last harvest."""
        return self._num_assigned - self._num_finished

    def has_room_for(self, num_samples: int) -> bool:
        """Whether so many more samples may run at once; an idle worker takes any group."""
        return not self.leased or self.num_unfinished + num_samples <= self._config.max_running_sequences

    def assign(self, request: GroupRequest) -> None:
        """Lease a group to it; `deliver` sends it, along with others of the same moment."""
        self.leased[request.ticket] = request
        self._num_assigned += request.sampling.num_samples
        self._outbox.append(request)
        self._has_outbox.set()

    async def deliver(self) -> NoReturn:
        """Send what is assigned, for ever."""
        while True:
            await waited(self._has_outbox.wait(), what=f"groups for {self.name}", owner="sampler", seconds=math.inf)
            self._has_outbox.clear()
            requests, self._outbox = self._outbox, []
            await self._reply("new groups", self.actor.submit.remote(requests), self._config.progress_timeout_seconds)

    async def collect(self) -> tuple[Harvest, BlockHandle]:
        """The next finished groups, whose leases end here, and the handle of their tokens."""
        reply, block = self.actor.collect.remote()
        harvest: Harvest = await self._reply("a finished group", reply, math.inf)  # `watch` ends it
        self._num_finished = harvest.num_finished
        for group in harvest.groups:
            del self.leased[group.ticket]
        return harvest, block

    async def watch(self) -> NoReturn:
        """Raise WorkerLost when it has work but makes no token for too long. Loading is no hang."""
        limit = self._config.progress_timeout_seconds
        num_tokens, since = -1, time.monotonic()
        while True:
            await asyncio.sleep(min(5.0, limit / 4))
            status = await self.status()
            if status.num_tokens != num_tokens:
                activity.note(f"sampling: {self.name} has made {status.num_tokens} tokens")
            if status.num_tokens != num_tokens or self._is_loading or not self.leased:
                num_tokens, since = status.num_tokens, time.monotonic()
            elif time.monotonic() - since > limit:
                cause = f"{self.name}: made no token for {limit:g} s with {len(self.leased)} groups to sample"
                raise WorkerLost(cause + await reported(cause))

    async def status(self) -> WorkerStatus:
        """One look at it."""
        return await self._reply("its status", self.actor.status.remote(), self._config.progress_timeout_seconds)

    def kill(self) -> None:
        """End the process at once."""
        ray.kill(self.actor)

    def __str__(self) -> str:
        state = "draining" if self.is_draining else "loading" if self._is_loading else "serving"
        return f"{self.name} ({state}): {len(self.leased)} groups leased, {self.num_unfinished} samples unfinished"

    async def _reply(self, what: str, reply: Awaitable[Reply], seconds: float) -> Reply:
        try:
            return await waited(reply, what=what, owner=self.name, seconds=seconds)
        except RayTaskError as error:
            if isinstance(error.cause, ValueError):
                raise ValueError(f"{self.name}: {error.cause}") from None
            raise WorkerLost(f"{self.name}: {error.cause}") from None
        except (RayError, EngineFailed) as error:
            raise WorkerLost(f"{self.name}: {one_line(error)}") from None
        except Overdue as overdue:
            raise WorkerLost(str(overdue)) from None


def one_line(error: Exception) -> str:
    """Kind and first line of an error, whose full text may be pages."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
