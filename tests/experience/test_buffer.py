"""The staleness bound and the exactly-once account of the buffer."""

import asyncio

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experience.buffer import Buffer
from experience.records import Group, Prompt


def group(ordinal: int) -> Group:
    prompt = Prompt(ordinal=ordinal, epoch=0, row=ordinal, tokens=np.zeros(1, np.int32), text="")
    return Group(prompt=prompt, samples=())


def buffer(prompts: int, staleness: int, last: int = 100) -> Buffer:
    return Buffer(prompts_per_step=prompts, max_staleness=staleness, version=0, last_version=last)


def test_strictly_on_policy_begins_one_step_only() -> None:
    async def scenario() -> list[int]:
        two = buffer(2, 0)
        await two.admit(0)
        await two.admit(1)
        assert not two.has_room
        two.add(group(1))
        two.add(group(0))
        return [taken.prompt.ordinal for taken in await two.take()]

    assert asyncio.run(scenario()) == [0, 1]


def test_a_slow_group_is_waited_for_before_it_grows_too_old() -> None:
    async def scenario() -> tuple[list[int], bool, list[int]]:
        one = buffer(1, 1)
        await one.admit(0)  # the slow one, begun at version 0
        await one.admit(1)
        one.add(group(1))
        first = [g.prompt.ordinal for g in await one.take()]
        one.advance()
        await one.admit(2)
        one.add(group(2))
        waiting = asyncio.create_task(one.take())  # trains version 1: group 0 is due now
        await asyncio.sleep(0)
        blocked = not waiting.done()
        one.add(group(0))
        return first, blocked, [g.prompt.ordinal for g in await waiting]

    assert asyncio.run(scenario()) == ([1], True, [0])


def test_nothing_is_begun_that_no_step_will_use() -> None:
    async def scenario() -> bool:
        short = buffer(1, 5, last=2)
        await short.admit(0)
        await short.admit(1)
        return short.has_room

    assert asyncio.run(scenario()) is False


def test_a_dropped_group_makes_room_for_another() -> None:
    async def scenario() -> tuple[bool, bool]:
        one = buffer(1, 0)
        await one.admit(0)
        before = one.has_room
        one.drop(0)
        return before, one.has_room

    assert asyncio.run(scenario()) == (False, True)


def test_a_group_that_comes_twice_is_refused() -> None:
    async def scenario() -> None:
        one = buffer(1, 0)
        await one.admit(0)
        one.add(group(0))
        one.add(group(0))

    with pytest.raises(ValueError, match="prompt 0 is not in flight"):
        asyncio.run(scenario())


@settings(max_examples=2000, deadline=None)
@given(
    prompts=st.integers(1, 4),
    staleness=st.integers(0, 3),
    choices=st.lists(st.integers(0, 10_000), max_size=120),
)
def test_no_interleaving_breaks_the_bound_or_the_account(prompts: int, staleness: int, choices: list[int]) -> None:
    """Random schedules of begin, finish, drop and train; every group is consumed or dropped at most once."""

    async def scenario() -> None:
        queue = buffer(prompts, staleness, last=1000)
        begun: dict[int, int] = {}
        running: list[int] = []
        gone: set[int] = set()
        step: asyncio.Task[list[Group]] | None = None
        for choice in choices:
            action, pick = choice % 4, choice // 4
            if action <= 1 and queue.has_room:
                ordinal = len(begun)
                await queue.admit(ordinal)
                begun[ordinal] = queue.version
                running.append(ordinal)
            elif action == 2 and running:
                ordinal = running.pop(pick % len(running))
                if pick % 7 == 0:
                    queue.drop(ordinal)
                    gone.add(ordinal)
                else:
                    queue.add(group(ordinal))
            step = step or asyncio.create_task(queue.take())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if step.done():
                for taken in step.result():
                    assert queue.version - begun[taken.prompt.ordinal] <= staleness
                    assert taken.prompt.ordinal not in gone
                    gone.add(taken.prompt.ordinal)
                assert len(step.result()) == prompts
                queue.advance()
                step = None
        if step is not None:
            step.cancel()
        assert set(queue.state()["begun"]) == set(begun) - gone

    asyncio.run(scenario())
