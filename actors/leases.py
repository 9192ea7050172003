"""Which group is with whom: the queue of those that wait, and the leases of the workers that sample.

A group is leased to the worker with the least work ahead of it. A lease ends when the whole group is back; when its
worker is lost or told to hurry, the group goes to another one. What is back first counts: a sample depends on the
weights, the prompt, the seed and its place in the group alone, never on who drew it or how fast.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from actors.messages import GroupRequest, GroupResult
from actors.pace import Pace
from experience.records import BlockHandle, Prompt, Sampling, Trajectory


class Lessee:
    """A worker as the leases see it."""

    def __init__(self, name: str, max_running: int) -> None:
        self.name = name
        self.pace = Pace()
        self.leased: dict[int, GroupRequest] = {}  # given, and not brought back
        self.num_unfinished = 0  # sequences that it was given and has not finished, as of its last report
        self._max_running = max_running

    def has_room_for(self, num_sequences: int) -> bool:
        """Whether so many more sequences may run at once; an idle worker takes any group."""
        return not self.leased or self.num_unfinished + num_sequences <= self._max_running

    def assign(self, request: GroupRequest) -> None:
        """Lease a group to it."""
        if not self.leased:
            self.pace.begin()
        self.leased[request.ticket] = request
        self.num_unfinished += request.sampling.num_sequences

    def drop(self) -> None:
        """It goes on with none of its groups."""
        self.leased.clear()

    def release(self, ticket: int) -> None:
        """Its group is not wanted any more."""
        raise NotImplementedError


@dataclass(slots=True, kw_only=True)
class _Ticket:
    """A group that somebody waits for, and who samples it."""

    prompt: Prompt
    sampling: Sampling
    future: asyncio.Future[tuple[Trajectory, ...]]
    holders: set[str] = field(default_factory=set)


class Leases:
    """The groups of one fleet. `free`: the workers that may be given something now."""

    def __init__(self, workers: Mapping[str, Lessee], free: Callable[[], Iterable[Lessee]]) -> None:
        self.num_backups = 0  # groups that a second worker was given too
        self._workers = workers
        self._free = free
        self._tickets: dict[int, _Ticket] = {}
        self._queue: deque[int] = deque()
        self._num_tickets = 0
        self._is_dispatch_due = False

    @property
    def num_waiting(self) -> int:
        """Groups that no worker has."""
        return len(self._queue)

    def ask(self, prompt: Prompt, sampling: Sampling) -> asyncio.Future[tuple[Trajectory, ...]]:
        """A new group, at the end of the queue."""
        future = asyncio.get_running_loop().create_future()
        self._num_tickets += 1
        self._tickets[self._num_tickets] = _Ticket(prompt=prompt, sampling=sampling, future=future)
        self._queue.append(self._num_tickets)
        self.request_dispatch()
        return future

    def settle(self, group: GroupResult, block: BlockHandle, worker: Lessee) -> None:
        """A group is back: whoever waits for it gets it, and nobody else need go on with it."""
        ticket = self._tickets.pop(group.ticket, None)
        if ticket is None:
            return
        if not ticket.future.done():  # its caller may have been cancelled
            ticket.future.set_result(trajectories(ticket.prompt, group, block, worker.name))
        for name in ticket.holders - {worker.name}:
            if other := self._workers.get(name):
                other.release(group.ticket)

    def give_back(self, worker: Lessee) -> int:
        """The groups of a lost worker return to the head of the queue, unless another one has them; how many."""
        lost = []
        for number in worker.leased:
            if ticket := self._tickets.get(number):
                ticket.holders.discard(worker.name)
                if not ticket.holders:
                    lost.append(number)
        self._queue.extendleft(reversed(lost))
        self.request_dispatch()
        return len(lost)

    def withdraw(self, worker: Lessee) -> None:
        """As `give_back`, of a worker that lives on, and goes on with none of them."""
        self.give_back(worker)
        worker.drop()

    def fail(self, failure: Exception) -> None:
        """Whoever waits for a group is told."""
        for ticket in self._tickets.values():
            if not ticket.future.done():
                ticket.future.set_exception(failure)
        self._tickets.clear()
        self._queue.clear()

    def request_dispatch(self) -> None:
        """Dispatch at the end of this turn of the event loop, so that prompts of one moment go together."""
        if not self._is_dispatch_due:
            self._is_dispatch_due = True
            asyncio.get_running_loop().call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._is_dispatch_due = False
        while self._queue:
            number = self._queue[0]
            ticket = self._tickets.get(number)
            if ticket is None or ticket.future.done():  # its worker was through with it before it was withdrawn
                self._tickets.pop(number, None)
            elif not self._lease(number, ticket):
                return
            self._queue.popleft()

    def back_up(self, slow: Collection[str]) -> None:
        """Give workers that are free what `slow` ones still hold, once nothing else waits."""
        if self._queue:
            return
        for name in slow:
            for number in self._workers[name].leased:
                ticket = self._tickets.get(number)
                if ticket and ticket.holders == {name} and self._lease(number, ticket, but_not=slow):
                    self.num_backups += 1

    def _lease(self, number: int, ticket: _Ticket, but_not: Collection[str] = ()) -> bool:
        """Give a group to the worker that is through with its work first; False when none has room."""
        count = ticket.sampling.num_sequences
        free = [worker for worker in self._free() if worker.has_room_for(count) and worker.name not in but_not]
        if not free:
            return False
        chosen = min(free, key=lambda worker: (worker.num_unfinished + count) * worker.pace.slowness)
        chosen.assign(group_request(number, ticket.prompt, ticket.sampling))
        ticket.holders.add(chosen.name)
        return True


def group_request(number: int, prompt: Prompt, sampling: Sampling) -> GroupRequest:
    """A group as its worker sees it."""
    return GroupRequest(ticket=number, ordinal=prompt.ordinal, tokens=prompt.tokens, sampling=sampling)


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
