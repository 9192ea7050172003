"""The four roles of the loop with modelled times: workers that decode, a learner that trains, on a virtual clock."""

import asyncio
import heapq
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from experience.columns import Place
from experience.records import Batch, BlockHandle, Prompt, Sampling, TokenBlock, Trajectory, Weights
from rewards.contract import RewardInput, Score
from trainers.checkpoint import Written

_NO_TOKENS = np.zeros(1, np.int32)
_WRONG, _RIGHT = Score(value=0.0, parts={"simulated": 0.0}), Score(value=1.0, parts={"simulated": 1.0})


class TokenSeconds(Protocol):
    """How long an engine takes for one token of each of its running sequences."""

    def __call__(self, running: int) -> float:
        """Seconds, with so many of them."""
        ...


class UpdateSeconds(Protocol):
    """How long the learner takes for a step."""

    def __call__(self, num_tokens: int) -> float:
        """Seconds, for so many tokens of prompts and responses."""
        ...


class Lengths:
    """Response lengths, drawn with replacement from a sample of them."""

    def __init__(self, sample: Sequence[int] | NDArray[np.integer], *, seed: int) -> None:
        self.sample = np.asarray(sample, dtype=np.int64)
        self._random = np.random.default_rng(seed)
        self._drawn: list[int] = []

    def draw(self, count: int) -> list[int]:
        """The next ones."""
        while len(self._drawn) < count:
            self._drawn += self._random.choice(self.sample, size=65_536).tolist()
        drawn, self._drawn[-count:] = self._drawn[-count:], []
        return drawn


class EndlessPrompts:
    """Prompts without text, all of one length."""

    def at(self, ordinal: int, count: int = 1) -> Sequence[Prompt]:
        """See trainers.roles.Prompts."""
        return [Prompt(ordinal=o, epoch=0, row=o, tokens=_NO_TOKENS, text="") for o in range(ordinal, ordinal + count)]


class CoinRewards:
    """Verdicts in `seconds`, right or wrong by turns, so that every group teaches."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def score(self, items: Sequence[RewardInput]) -> Sequence[Score]:
        """See trainers.roles.Rewards."""
        if self._seconds:
            await asyncio.sleep(self._seconds)
        return [_RIGHT if index % 2 else _WRONG for index in range(len(items))]


@dataclass(slots=True)
class _Ticket:
    """A group on a worker, or in the queue."""

    prompt: Prompt
    lengths: list[int]
    future: asyncio.Future[None]
    min_version: int = -1
    max_version: int = -1
    num_running: int = 0


@dataclass(slots=True)
class Worker:
    """One engine: sequences that share its time. `work` counts the tokens that each running one was given so far."""

    number: int
    work: float = 0.0
    since: float = 0.0
    ends: list[tuple[float, int]] = field(default_factory=list)  # heap: work at which a sequence ends, ticket
    tickets: dict[int, _Ticket] = field(default_factory=dict)
    timer: asyncio.TimerHandle | None = None
    is_paused: bool = True
    busy_seconds: float = 0.0  # with at least one sequence
    slot_seconds: float = 0.0  # of all sequences

    @property
    def num_running(self) -> int:
        """Sequences."""
        return len(self.ends)


class SimulatedRollouts:
    """Workers that pull groups while they have room, as actors/fleet.py lets them."""

    def __init__(
        self, *, num_workers: int, slots: int, token_seconds: TokenSeconds, lengths: Lengths, prompt_tokens: int
    ) -> None:
        self.workers = [Worker(number=number) for number in range(num_workers)]
        self.num_trajectories = 0
        self.sync_seconds = 0.0
        self._slots, self._token_seconds = slots, token_seconds
        self._lengths, self._prompt_tokens = lengths, prompt_tokens
        self._queue: deque[_Ticket] = deque()
        # Heap of (sequences, worker), renewed with each change; an entry that is no longer true is passed over.
        self._room = [(0, number) for number in range(num_workers)]
        self._num_tickets = 0
        self._version = -1

    async def generate(self, prompt: Prompt, sampling: Sampling) -> tuple[Trajectory, ...]:
        """See trainers.roles.Rollouts."""
        lengths = self._lengths.draw(sampling.num_samples)
        ticket = _Ticket(prompt=prompt, lengths=lengths, future=asyncio.get_running_loop().create_future())
        self._queue.append(ticket)
        self._dispatch()
        await ticket.future
        self.num_trajectories += len(lengths)
        return self._trajectories(ticket, sampling)

    async def load(self, weights: Weights) -> None:
        """See trainers.roles.Rollouts: running sequences stand still meanwhile, and go on under the new version."""
        now = asyncio.get_running_loop().time()
        for worker in self.workers:
            self._catch_up(worker, now)
            worker.is_paused = True
            self._set_timer(worker, now)
        await asyncio.sleep(self.sync_seconds)
        now = asyncio.get_running_loop().time()
        self._version = weights.version
        for worker in self.workers:
            worker.is_paused, worker.since = False, now
            for ticket in worker.tickets.values():
                ticket.max_version = weights.version
            self._set_timer(worker, now)
        self._dispatch()

    def metrics(self) -> Mapping[str, float]:
        """See trainers.roles.Rollouts; what the simulated workers did is told at the end."""
        return {}

    async def block(self, handle: BlockHandle) -> TokenBlock:
        """See trainers.roles.Rollouts."""
        raise NotImplementedError("a simulation has no tokens")

    def settle(self, now: float) -> None:
        """Account for the time up to now."""
        for worker in self.workers:
            self._catch_up(worker, now)

    def _dispatch(self) -> None:
        """Give the queue's groups to the workers with the least work that have room for them."""
        if self._version < 0:
            return
        changed: dict[int, Worker] = {}
        while self._queue and self._room:
            running, number = self._room[0]
            worker = self.workers[number]
            if running != worker.num_running:
                heapq.heappop(self._room)
                continue
            if running and running + len(self._queue[0].lengths) > self._slots:
                break
            if number not in changed:
                self._catch_up(worker, asyncio.get_running_loop().time())
                changed[number] = worker
            heapq.heappop(self._room)
            self._assign(worker, self._queue.popleft())
            self._note_room(worker)
        for worker in changed.values():
            self._set_timer(worker, asyncio.get_running_loop().time())

    def _note_room(self, worker: Worker) -> None:
        heapq.heappush(self._room, (worker.num_running, worker.number))
        if len(self._room) > 16 * len(self.workers):
            self._room = [(worker.num_running, worker.number) for worker in self.workers]
            heapq.heapify(self._room)

    def _assign(self, worker: Worker, ticket: _Ticket) -> None:
        self._num_tickets += 1
        ticket.min_version = ticket.max_version = self._version
        ticket.num_running = len(ticket.lengths)
        worker.tickets[self._num_tickets] = ticket
        for length in ticket.lengths:
            heapq.heappush(worker.ends, (worker.work + length, self._num_tickets))

    def _catch_up(self, worker: Worker, now: float) -> None:
        """Let a worker's time go on to `now`, at the speed of the sequences that it had meanwhile."""
        passed = now - worker.since
        worker.since = now
        if worker.ends and not worker.is_paused:
            worker.work += passed / self._token_seconds(len(worker.ends))
            worker.busy_seconds += passed
            worker.slot_seconds += passed * len(worker.ends)

    def _set_timer(self, worker: Worker, now: float) -> None:
        """Wake up when the next sequence ends."""
        if worker.timer is not None:
            worker.timer.cancel()
            worker.timer = None
        if worker.ends and not worker.is_paused:
            left = max(0.0, worker.ends[0][0] - worker.work) * self._token_seconds(len(worker.ends))
            worker.timer = asyncio.get_running_loop().call_at(now + left, self._end_sequences, worker)

    def _end_sequences(self, worker: Worker) -> None:
        """Everything that ends within the token under way leaves."""
        now = asyncio.get_running_loop().time()
        self._catch_up(worker, now)
        worker.work = max(worker.work, worker.ends[0][0])  # what rounding left over
        while worker.ends and worker.ends[0][0] <= worker.work + 1e-6:
            _, number = heapq.heappop(worker.ends)
            ticket = worker.tickets[number]
            ticket.num_running -= 1
            if not ticket.num_running:
                del worker.tickets[number]
                if not ticket.future.done():
                    ticket.future.set_result(None)
        self._note_room(worker)
        self._set_timer(worker, now)
        self._dispatch()

    def _trajectories(self, ticket: _Ticket, sampling: Sampling) -> tuple[Trajectory, ...]:
        return tuple(
            Trajectory(
                prompt=ticket.prompt,
                sample_index=index,
                block=None,
                row=index,
                num_prompt_tokens=self._prompt_tokens,
                num_response_tokens=length,
                text="",
                finish_reason="length" if length >= sampling.max_response_tokens else "stop",
                min_version=ticket.min_version,
                max_version=ticket.max_version,
                mean_logprob=0.0,
                worker="",
            )
            for index, length in enumerate(ticket.lengths)
        )


class SimulatedLearner:
    """A learner that takes as long as its tokens ask for, scores included."""

    scores_first = False

    def __init__(self, update_seconds: UpdateSeconds) -> None:
        self.busy_seconds = 0.0
        self._update_seconds = update_seconds

    async def score(self, batch: Batch) -> None:
        """See trainers.roles.Learner."""

    async def update(self, batch: Batch) -> Mapping[str, float]:
        """See trainers.roles.Learner."""
        tokens = sum(
            item.num_tokens for mini in batch.updates for rank in mini.ranks for micro in rank for item in micro
        )
        seconds = self._update_seconds(tokens // max(1, batch.epochs))
        self.busy_seconds += seconds
        await asyncio.sleep(seconds)
        return {}

    async def publish(self, version: int) -> Weights:
        """See trainers.roles.Learner."""
        return Weights(version=version, checksum="", handle=None)

    async def divergences(self, batch: Batch) -> Mapping[Place, float]:
        """See trainers.roles.Learner."""
        raise NotImplementedError("a simulation has no log-probs to compare")

    async def refresh_reference(self) -> None:
        """See trainers.roles.Learner."""

    async def save(self, draft: Path) -> Written:
        """See trainers.roles.Learner."""
        raise NotImplementedError("a simulation saves nothing")

    async def load(self, folder: Path) -> Mapping[str, Any]:
        """See trainers.roles.Learner."""
        raise NotImplementedError("a simulation saves nothing")

    async def export(self, folder: Path) -> None:
        """See trainers.roles.Learner."""
        raise NotImplementedError("a simulation exports nothing")
