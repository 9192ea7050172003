"""A reward pool inside an asynchronous Ray actor: hostile answers never hold up its event loop."""

import asyncio
import logging
import time
from collections import Counter
from statistics import quantiles
from typing import Any

import pytest
import ray

from configs.schema.rewards import RewardPoolConfig, RewardSpec
from rewards.contract import RewardInput
from rewards.hostile import HOSTILE_GOLD, hostile_answers
from rewards.pool import RewardPool

NUM_VERDICTS, NUM_HOSTILE = 1000, 50


pytestmark = pytest.mark.usefixtures("cluster")


class Judge:
    """An actor that owns a pool, as a user's own actor might."""

    async def start(self) -> None:
        self._pool = RewardPool([RewardSpec(use="math")], RewardPoolConfig(num_processes=1))
        await asyncio.to_thread(self._pool.start)

    async def score(self, items: list[RewardInput]) -> list[str]:
        return [score.status.value for score in await self._pool.score(items)]

    async def ping(self) -> None:
        pass

    async def close(self) -> None:
        await asyncio.to_thread(self._pool.close)


def answers() -> list[RewardInput]:
    """Every 20th is hostile; the others are right or wrong in turn, no two alike."""
    hostile = iter([response for _, response in hostile_answers()][:NUM_HOSTILE])
    every = NUM_VERDICTS // NUM_HOSTILE
    responses = [
        next(hostile) if number % every == 0 else f"Step {number}. \\boxed{{{42 + number % 2}}}"
        for number in range(NUM_VERDICTS)
    ]
    return [RewardInput(prompt="", response=response, answer=HOSTILE_GOLD) for response in responses]


async def pings_while(judge: Any, work: "asyncio.Future[list[str]]") -> list[float]:
    """Seconds of each round trip to the actor, until `work` is done."""
    seconds = []
    while not work.done():
        started = time.perf_counter()
        await judge.ping.remote()
        seconds.append(time.perf_counter() - started)
        await asyncio.sleep(0.02)
    return seconds


def test_an_actor_answers_pings_while_it_judges_hostile_answers() -> None:
    async def measure() -> tuple[list[str], list[float], float]:
        judge: Any = ray.remote(num_cpus=1)(Judge).remote()
        await judge.start.remote()
        started = time.perf_counter()
        work = asyncio.ensure_future(judge.score.remote(answers()))
        pings = await pings_while(judge, work)
        took = time.perf_counter() - started
        await judge.close.remote()
        return work.result(), pings, took

    statuses, pings, took = asyncio.run(measure())
    late = sum(ping > 0.1 for ping in pings)
    figures = f"{took:.1f} s; {len(pings)} pings, longest {max(pings):.3f} s, {late} over 0.1 s; {Counter(statuses)}"
    logging.getLogger(__name__).info(figures)  # shown by --log-cli-level=INFO
    assert len(statuses) == NUM_VERDICTS
    assert Counter(statuses)["ok"] >= NUM_VERDICTS - NUM_HOSTILE
    # Not the longest: a busy machine may leave any process waiting for longer.
    assert quantiles(pings, n=20)[-1] < 0.1, figures
