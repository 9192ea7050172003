"""Waits have an owner and a deadline, and can be asked for while they last."""

import asyncio
import time

import pytest

from metrics import waits
from metrics.waits import Overdue, Wait, treated_by, waited


def test_a_wait_gives_what_it_waited_for_and_is_registered_meanwhile() -> None:
    async def ask() -> str:
        (wait,) = waits.pending()
        assert (wait.what, wait.owner, wait.seconds) == ("an answer", "rank 1", 5)
        assert str(wait).startswith("for rank 1: an answer, since 0.")
        return "42"

    assert asyncio.run(waited(ask(), what="an answer", owner="rank 1", seconds=5)) == "42"
    assert waits.pending() == []


def test_errors_pass_through() -> None:
    async def fail() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        asyncio.run(waited(fail(), what="x", owner="y", seconds=5))
    assert waits.pending() == []


def test_an_overdue_wait_is_treated_cancelled_and_named() -> None:
    seen: list[Wait] = []
    was_cancelled = []

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            was_cancelled.append(True)
            raise

    async def doctor(wait: Wait) -> None:
        assert waits.pending() == [wait]
        seen.append(wait)

    async def bad_doctor(wait: Wait) -> None:
        raise OSError("disk full")

    async def main() -> None:
        with treated_by(bad_doctor), treated_by(doctor):
            await waited(hang(), what="a token", owner="rollout-0", seconds=0.05)

    with pytest.raises(Overdue, match=r"^rollout-0: no progress for 0.05 s \(a token\)$"):
        asyncio.run(main())
    assert [wait.owner for wait in seen] == ["rollout-0"]
    assert was_cancelled == [True]
    assert waits.pending() == []


def test_progress_begins_the_deadline_anew() -> None:
    count = 0

    async def work() -> str:
        nonlocal count
        for _ in range(10):
            await asyncio.sleep(0.04)
            count += 1
        return "done"

    begun = time.monotonic()
    assert asyncio.run(waited(work(), what="w", owner="o", seconds=0.2, progress=lambda: count)) == "done"
    assert time.monotonic() - begun > 0.3


def test_without_progress_a_wait_ends() -> None:
    with pytest.raises(Overdue):
        asyncio.run(waited(asyncio.sleep(60), what="w", owner="o", seconds=0.1, progress=lambda: 0))


def test_a_cancelled_wait_cancels_what_it_waited_for() -> None:
    async def main() -> bool:
        inner = asyncio.ensure_future(asyncio.sleep(60))
        outer = asyncio.create_task(waited(inner, what="w", owner="o", seconds=None))
        await asyncio.sleep(0.01)
        outer.cancel()
        await asyncio.gather(outer, return_exceptions=True)
        await asyncio.sleep(0)
        return inner.cancelled()

    assert asyncio.run(main())
    assert waits.pending() == []
