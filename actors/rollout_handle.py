"""The driver's view of one rollout worker, from its birth to its loss."""

import asyncio
import math
import time
from collections.abc import Awaitable, Mapping
from typing import Any, NoReturn, TypeVar

import ray
from ray.exceptions import ObjectLostError, RayError, RayTaskError

from actors.engine_environment import environment
from actors.leases import Lessee
from actors.messages import (
    ChannelSpec,
    EngineFailed,
    EngineStats,
    GroupRequest,
    Harvest,
    Progress,
    RolloutSpec,
    StartFacts,
    WorkerStatus,
)
from actors.names import actor_name
from actors.offers import WeightsGone
from actors.placement import GPU_SHARE
from actors.rollout import RolloutWorker
from actors.store import FULL, StoreFull
from experience.records import BlockHandle, Weights
from metrics import activity
from metrics.timeline import actor_span
from metrics.waits import Overdue, reported, waited

SECONDS_BETWEEN_LOOKS = 2.0

Reply = TypeVar("Reply")


class WorkerLost(RuntimeError):
    """A rollout worker that can't serve any more. Its groups may be sampled by another one."""


class WorkerHandle(Lessee):
    """One worker process. Its calls raise WorkerLost when it died, hangs or reports a broken engine.

    A call that the worker refuses as a mistake of its caller raises ValueError; StoreFull where its node has no room
    for what it returns.
    """

    def __init__(self, name: str, spec: RolloutSpec, options: Mapping[str, Any]) -> None:
        super().__init__(name, spec.config.max_running_sequences)
        self.weights: Weights | None = None
        self.node = ""
        self.engine = EngineStats()  # as of its last status
        self.is_draining = False
        self.is_loading = False
        self.is_asleep = False
        self._config = spec.config
        self._log: tuple[str, ...] = ()
        self._outbox: list[GroupRequest] = []
        self._has_outbox = asyncio.Event()
        self._is_sending = asyncio.Lock()
        self._sampling_since: float | None = None
        self._num_assigned = 0  # samples, since the start
        self.actor = self._employ(spec, options)

    def _employ(self, spec: RolloutSpec, options: Mapping[str, Any]) -> Any:
        """A new process for it, as a Ray actor."""
        # With Ray's own restarts an actor would come back without weights and unknown to its fleet.
        defaults = {"runtime_env": {"env_vars": environment(spec)}, "max_restarts": 0}
        taken = resources(spec)
        return (
            ray.remote(RolloutWorker)
            .options(**defaults, name=actor_name(self.name), num_cpus=taken["CPU"], num_gpus=taken["GPU"], **options)
            .remote(spec, self.name)
        )

    async def start(self) -> StartFacts:
        """Wait until the engine runs."""
        reply = self.actor.start.remote()
        facts: StartFacts = await self._reply("its start", reply, self._config.start_timeout_seconds)
        self.node = facts.node
        return facts

    async def meet(self, spec: ChannelSpec, place: int) -> None:
        """Have it meet the other ends of a channel; `place`: that of the first of its devices."""
        self.is_loading = True
        try:
            reply = self.actor.meet.remote(spec, place)
            await self._reply("meeting in a channel", reply, self._config.start_timeout_seconds)
        finally:
            self.is_loading = False

    async def load(self, weights: Weights, sent: Weights | None = None) -> None:
        """Give it these weights; returns when it has proven that it holds them. WeightsGone where nobody has them.

        `sent`: the same, as it is to be loaded; without bytes, they come through the channel that was joined.
        """
        sent = sent or weights
        self._sampled()
        begun, self.is_loading = time.monotonic(), True
        reply = self.actor.load.remote(sent)
        try:
            checksum = await self._reply("loading weights", reply, self._config.start_timeout_seconds)
        finally:
            self.is_loading = False
        self.is_asleep = False
        actor_span(self.name, "load", begun)
        self._sampling_since = time.monotonic() if self.leased else None
        self.pace.begin()
        if checksum != sent.checksum:
            raise self._lost(f"loaded checksum {checksum}, published was {sent.checksum}")
        self.weights = weights

    async def sleep(self) -> None:
        """Have its engine give its device's memory to others, until the next `load`."""
        self.weights = None
        async with self._is_sending:  # Ray may begin calls in another order than they were made
            reply = self.actor.sleep.remote()
            progress: Progress = await self._reply("falling asleep", reply, self._config.start_timeout_seconds)
        self._num_assigned, self.num_unfinished = progress.num_finished, 0
        self.is_asleep = True

    @property
    def state(self) -> str:
        """In one word."""
        if self.is_draining:
            return "leaving"
        if self.is_asleep and not self.is_loading:
            return "asleep"
        if self.is_loading or self.weights is None:
            return "loading"
        return "sampling" if self.leased else "idle"

    def assign(self, request: GroupRequest) -> None:
        """Lease a group to it; `deliver` sends it, along with others of the same moment."""
        if not self.leased:
            self._sampling_since = time.monotonic()
        super().assign(request)
        self._num_assigned += request.sampling.num_sequences
        self._outbox.append(request)
        self._has_outbox.set()

    def drop(self) -> None:
        """It goes on with none of its groups: those that were sent end with `sleep`."""
        super().drop()
        self._sampled()
        num_sequences = sum(request.sampling.num_sequences for request in self._outbox)
        self._num_assigned -= num_sequences
        self.num_unfinished -= num_sequences
        self._outbox.clear()

    def release(self, ticket: int) -> None:
        """Another worker was faster: it need not go on with this group."""
        request = self.leased.pop(ticket)
        if request in self._outbox:
            self._outbox.remove(request)
            self._num_assigned -= request.sampling.num_sequences
            self.num_unfinished -= request.sampling.num_sequences
        else:
            self.actor.release.remote(ticket)

    async def deliver(self) -> NoReturn:
        """Send what is assigned, for ever."""
        while True:
            await waited(self._has_outbox.wait(), what=f"groups for {self.name}", owner="sampler", seconds=math.inf)
            self._has_outbox.clear()
            async with self._is_sending:
                requests, self._outbox = self._outbox, []
                reply = self.actor.submit.remote(requests)
                await self._reply("new groups", reply, self._config.progress_timeout_seconds)

    async def collect(self) -> tuple[Harvest, BlockHandle]:
        """The next finished groups, whose leases end here, and the handle of their tokens."""
        block, reply = self.actor.collect.remote()
        harvest: Harvest = await self._reply("a finished group", reply, math.inf)  # `watch` ends it
        for group in harvest.groups:
            self.leased.pop(group.ticket, None)
        if not self.leased:
            self._sampled()
        self._report(harvest.progress)
        return harvest, block

    async def watch(self) -> NoReturn:
        """Raise WorkerLost when it has work but samples nothing for too long. Loading is no hang."""
        limit = self._config.progress_timeout_seconds
        num_steps, since = -1, time.monotonic()
        while True:
            await asyncio.sleep(min(SECONDS_BETWEEN_LOOKS, limit / 4))
            status = await self.status()
            if status.progress.num_steps != num_steps:
                activity.note(f"sampling: {self.name} has made {status.progress.num_tokens} tokens")
            if status.progress.num_steps != num_steps or self.is_loading or not self.leased:
                num_steps, since = status.progress.num_steps, time.monotonic()
            elif time.monotonic() - since > limit:
                cause = f"made no token for {limit:g} s with {len(self.leased)} groups to sample"
                raise self._lost(cause + await reported(f"{self.name}: {cause}"))

    async def status(self) -> WorkerStatus:
        """One look at it."""
        reply = self.actor.status.remote()
        status: WorkerStatus = await self._reply("its status", reply, self._config.progress_timeout_seconds)
        self._log, self.engine = status.log, status.engine
        self._report(status.progress)
        return status

    def kill(self) -> None:
        """End the process at once."""
        ray.kill(self.actor)

    def __str__(self) -> str:
        return f"{self.name} ({self.state}): {len(self.leased)} groups leased, {self.num_unfinished} samples unfinished"

    def _sampled(self) -> None:
        """It has nothing to sample any more, or other weights come."""
        if self._sampling_since is not None:
            actor_span(self.name, "sample", self._sampling_since)
        self._sampling_since = None

    def _report(self, progress: Progress) -> None:
        self.num_unfinished = min(self.num_unfinished, self._num_assigned - progress.num_finished)
        self.pace.report(progress)

    async def _reply(self, what: str, reply: Awaitable[Reply], seconds: float) -> Reply:
        try:
            return await waited(reply, what=what, owner=self.name, seconds=seconds)
        except RayTaskError as error:
            if isinstance(error.cause, ValueError):
                raise ValueError(f"{self.name}: {error.cause}") from None
            if isinstance(error.cause, ObjectLostError):
                raise WeightsGone(f"{self._where} finds {what} gone: {one_line(error.cause)}") from None
            if isinstance(error.cause, FULL):
                raise StoreFull(self._where) from None
            raise self._lost(str(error.cause)) from None
        except (RayError, EngineFailed) as error:
            raise self._lost(one_line(error)) from None
        except Overdue as overdue:
            raise WorkerLost(str(overdue)) from None

    def _lost(self, why: str) -> WorkerLost:
        """The loss, with where it was and what its process had said."""
        said = f"; it logged last: {' | '.join(self._log)}" if self._log else ""
        return WorkerLost(f"{self._where}: {why}{said}")

    @property
    def _where(self) -> str:
        return f"{self.name} on {self.node}" if self.node else self.name


def resources(spec: RolloutSpec) -> dict[str, float]:
    """What one worker takes of its node, by Ray's names."""
    config = spec.config
    share = GPU_SHARE if config.colocated else config.tensor_parallel_size * config.placement.gpu_share
    return {"CPU": config.cores_per_worker, "GPU": share if spec.use_gpu else 0}


def one_line(error: Exception) -> str:
    """Kind and first line of an error, whose full text may be pages."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
