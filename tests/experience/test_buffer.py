"""The staleness bound and the exactly-once account of the buffer."""

import asyncio
import json
from collections import Counter
from typing import Any

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
        state = queue.state()
        assert {*state["begun"], *(ordinal for ordinal, _ in state["waiting"])} == set(begun) - gone

    asyncio.run(scenario())


class Run:
    """A run that begins prompts, finishes them and trains, by turns; it may be killed, and goes on from what it saved.

    It saves as the loop does: after a step is trained, before its version is the current one.
    """

    def __init__(self, prompts: int, staleness: int, saved: dict[str, Any]) -> None:
        self.prompts, self.staleness, self.saved = prompts, staleness, saved
        self.version = saved["version"]
        self.buffer = Buffer(
            prompts_per_step=prompts, max_staleness=staleness, version=self.version, last_version=10_000
        )
        self.cursor: int = saved["cursor"]
        self.consumed: list[int] = list(saved["consumed"])
        self.dropped: list[int] = list(saved["dropped"])
        state = json.loads(json.dumps(saved["state"]))
        versions = dict(state["waiting"])
        taken = self.buffer.restore([group(ordinal) for ordinal in versions], versions)
        self.age_of = {ordinal: versions[ordinal] for ordinal in taken}
        self.to_begin = [*state["begun"], *(versions.keys() - taken)]
        self.num_taken_back = len(taken)
        self.running: list[int] = []

    async def begin(self) -> None:
        if self.buffer.has_room:
            ordinal = self.to_begin.pop(0) if self.to_begin else self.cursor
            self.cursor = max(self.cursor, ordinal + 1)
            await self.buffer.admit(ordinal)
            self.age_of[ordinal] = self.version
            self.running.append(ordinal)

    def finish(self, pick: int) -> None:
        if self.running:
            ordinal = self.running.pop(pick % len(self.running))
            if pick % 7 == 0:
                self.buffer.drop(ordinal)
                self.dropped.append(ordinal)
            else:
                self.buffer.add(group(ordinal))

    async def train(self, saves: bool) -> None:
        step = asyncio.create_task(self.buffer.take())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if not step.done():
            step.cancel()
            return
        for taken in step.result():
            assert self.version - self.age_of[taken.prompt.ordinal] <= self.staleness
            self.consumed.append(taken.prompt.ordinal)
        assert len(step.result()) == self.prompts
        state = self.buffer.state()
        state = {**state, "begun": [*state["begun"], *self.to_begin]}
        self.version += 1
        if saves:
            counts = {"consumed": list(self.consumed), "dropped": list(self.dropped)}
            self.saved = {"version": self.version, "cursor": self.cursor, "state": state, **counts}
        self.buffer.advance()

    def account(self) -> Counter[int]:
        """How often each prompt is somewhere."""
        state = self.buffer.state()
        waiting = [ordinal for ordinal, _ in state["waiting"]]
        return Counter([*self.consumed, *self.dropped, *state["begun"], *self.to_begin, *waiting])


NOTHING_SAVED = {"version": 0, "cursor": 0, "consumed": [], "dropped": [], "state": {"begun": [], "waiting": []}}


@settings(max_examples=1000)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3)), min_size=1, max_size=4),
    choices=st.lists(st.integers(0, 10_000), max_size=150),
)
def test_a_run_killed_at_any_moment_repeats_and_skips_none_and_keeps_the_bound(
    sizes: list[tuple[int, int]], choices: list[int]
) -> None:
    """`sizes`: prompts a step and the staleness bound of each start; a later one may be tighter than the last."""

    async def scenario() -> None:
        run, starts = Run(*sizes[0], NOTHING_SAVED), 1
        for choice in choices:
            action, pick = choice % 8, choice // 8
            if action <= 2:
                await run.begin()
            elif action <= 4:
                run.finish(pick)
            elif action <= 6:
                await run.train(saves=pick % 2 == 0)
            else:
                before = run
                run = Run(*sizes[starts % len(sizes)], before.saved)
                starts += 1
                if (run.prompts, run.staleness) == (before.prompts, before.staleness):
                    assert run.num_taken_back == len(before.saved["state"]["waiting"]), "none is sampled again"
            assert run.account() == Counter(range(run.cursor))

    asyncio.run(scenario())


def test_groups_that_waited_are_taken_in_the_order_they_finished() -> None:
    async def scenario() -> tuple[list[int], Any]:
        first = buffer(1, 2)
        for ordinal in range(3):
            await first.admit(ordinal)
        for ordinal in (2, 0, 1):
            first.add(group(ordinal))
        assert [taken.prompt.ordinal for taken in await first.take()] == [2]
        second = Buffer(prompts_per_step=1, max_staleness=2, version=1, last_version=100)
        state = first.state()
        second.restore(first.waiting, dict(state["waiting"]))
        assert second.state() == state
        return [taken.prompt.ordinal for taken in await second.take()], second.state()

    assert asyncio.run(scenario()) == ([0], {"begun": [], "waiting": [[1, 0]]})


def test_what_a_tighter_bound_would_make_too_old_is_left_out() -> None:
    tighter = Buffer(prompts_per_step=1, max_staleness=1, version=5, last_version=100)
    groups = [group(ordinal) for ordinal in range(4)]
    assert tighter.restore(groups, {0: 3, 1: 4, 2: 4, 3: 5}) == {1, 3}
