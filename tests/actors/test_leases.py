"""Leases without workers: who is given what, and what comes back counts once."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.leases import Leases, Lessee
from actors.messages import GroupResult
from experience.records import Prompt, Sampling

SAMPLING = Sampling(num_samples=2, max_response_tokens=4, temperature=1.0, seed=0)


class Bench(Lessee):
    """A worker that does nothing until the test says so."""

    def __init__(self, name: str, max_running: int = 64) -> None:
        super().__init__(name, max_running)
        self.released: list[int] = []

    def release(self, ticket: int) -> None:
        self.leased.pop(ticket)
        self.released.append(ticket)


def prompt(ordinal: int) -> Prompt:
    return Prompt(ordinal=ordinal, epoch=0, row=ordinal, tokens=np.zeros(1, np.int32), text="")


def run(scene: Callable[[Leases, dict[str, Lessee]], Coroutine[Any, Any, None]], *names: str) -> None:
    async def play() -> None:
        workers: dict[str, Lessee] = {name: Bench(name) for name in names}
        await scene(Leases(workers, free=workers.values), workers)

    asyncio.run(play())


def bring_back(leases: Leases, worker: Lessee, ticket: int) -> None:
    worker.leased.pop(ticket)
    leases.settle(GroupResult(ticket=ticket, samples=()), None, worker)


def test_the_worker_that_is_through_with_its_work_first_is_given_the_next_group() -> None:
    async def scene(leases: Leases, workers: dict[str, Lessee]) -> None:
        workers["slow"].pace.slowness = 9.0
        for ordinal in range(10):
            leases.ask(prompt(ordinal), SAMPLING)
        await asyncio.sleep(0)
        assert {name: len(worker.leased) for name, worker in workers.items()} == {"fast": 9, "slow": 1}

    run(scene, "fast", "slow")


def test_groups_of_a_lost_worker_go_to_the_head_of_the_queue() -> None:
    async def scene(leases: Leases, workers: dict[str, Lessee]) -> None:
        for ordinal in range(3):
            leases.ask(prompt(ordinal), SAMPLING)
        await asyncio.sleep(0)
        lost = workers.pop("only")
        leases.give_back(lost)
        leases.ask(prompt(3), SAMPLING)
        workers["next"] = Bench("next")
        await asyncio.sleep(0)
        assert [request.ordinal for request in workers["next"].leased.values()] == [0, 1, 2, 3]

    run(scene, "only")


def test_a_slow_worker_s_groups_are_backed_up_once_nothing_else_waits_and_the_first_counts() -> None:
    async def scene(leases: Leases, workers: dict[str, Lessee]) -> None:
        fast, slow = workers.pop("fast"), workers["slow"]
        answer = leases.ask(prompt(0), SAMPLING)
        await asyncio.sleep(0)
        workers["fast"] = fast
        leases.back_up({"slow"})
        leases.back_up({"slow"})  # not a third time
        assert list(fast.leased) == list(slow.leased) == [1]
        assert leases.num_backups == 1
        bring_back(leases, fast, 1)
        assert answer.done()
        assert isinstance(slow, Bench) and slow.released == [1]
        leases.settle(GroupResult(ticket=1, samples=()), None, slow)  # it was on its way already
        assert not slow.leased and not fast.leased

    run(scene, "fast", "slow")


def test_a_group_that_another_worker_has_too_does_not_return_to_the_queue() -> None:
    async def scene(leases: Leases, workers: dict[str, Lessee]) -> None:
        fast = workers.pop("fast")
        leases.ask(prompt(0), SAMPLING)
        await asyncio.sleep(0)
        workers["fast"] = fast
        leases.back_up({"slow"})
        assert leases.give_back(workers.pop("slow")) == 0
        assert leases.num_waiting == 0
        assert leases.give_back(workers.pop("fast")) == 1
        assert leases.num_waiting == 1

    run(scene, "fast", "slow")


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(st.sampled_from(["ask", "back", "lose", "slow", "join"]), st.integers(0, 5)), max_size=60))
def test_in_any_interleaving_every_group_is_answered_once(acts: list[tuple[str, int]]) -> None:
    async def scene(leases: Leases, workers: dict[str, Lessee]) -> None:
        answers: list[asyncio.Future[Any]] = []
        for act, number in acts:
            names = sorted(workers)
            chosen = workers[names[number % len(names)]] if names else None
            if act == "ask":
                answers.append(leases.ask(prompt(len(answers)), SAMPLING))
            elif act == "join":
                workers[f"w{number}"] = workers.get(f"w{number}") or Bench(f"w{number}")
                leases.request_dispatch()
            elif chosen is None:
                continue
            elif act == "back" and chosen.leased:
                bring_back(leases, chosen, next(iter(chosen.leased)))
            elif act == "lose":
                leases.give_back(workers.pop(chosen.name))
            elif act == "slow":
                leases.back_up({chosen.name})
            await asyncio.sleep(0)
        workers["last"] = Bench("last", max_running=10_000)
        leases.request_dispatch()
        await asyncio.sleep(0)
        while left := [worker for worker in workers.values() if worker.leased]:
            bring_back(leases, left[0], next(iter(left[0].leased)))
            await asyncio.sleep(0)
        assert all(answer.done() for answer in answers)
        assert leases.num_waiting == 0

    run(scene, "w0", "w1")
