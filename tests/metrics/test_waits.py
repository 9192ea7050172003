"""Waits have an owner and a deadline, and can be asked for while they last."""

import asyncio
import math
from pathlib import Path

import pytest

from cluster.virtual_clock import run_virtually
from metrics import waits
from metrics.waits import Overdue, reported, shown, waited, watched_by


def test_a_wait_gives_what_it_waited_for_and_is_registered_meanwhile() -> None:
    async def ask() -> str:
        (wait,) = waits.pending()
        assert (wait.what, wait.owner, wait.seconds) == ("an answer", "rank 1", 5)
        assert str(wait).startswith("for rank 1: an answer, since 0.")
        return "42"

    assert asyncio.run(waited(ask(), what="an answer", owner="rank 1", seconds=5)) == "42"
    assert waits.pending() == []


@pytest.mark.parametrize("seconds", [5, math.inf])
def test_errors_pass_through(seconds: float) -> None:
    async def fail() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        asyncio.run(waited(fail(), what="x", owner="y", seconds=seconds))
    assert waits.pending() == []


def test_an_overdue_wait_is_reported_cancelled_and_named() -> None:
    causes: list[str] = []
    was_cancelled = []

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            was_cancelled.append(True)
            raise

    async def report(cause: str, detail: str) -> Path:
        assert [wait.owner for wait in waits.pending()] == ["rollout-0"]
        causes.append(cause)
        return Path("hang.txt")

    async def main() -> None:
        await waited(hang(), what="a token", owner="rollout-0")

    with (
        watched_by(report, seconds=60),
        pytest.raises(Overdue, match=r"^rollout-0: no progress for 60 s \(a token\); report: hang\.txt$"),
    ):
        run_virtually(main())
    assert causes == ["rollout-0: no progress for 60 s (a token)"]
    assert was_cancelled == [True]
    assert waits.pending() == []


def test_a_report_that_fails_leaves_the_cause_as_it_is() -> None:
    async def fail(cause: str, detail: str) -> Path:
        raise OSError("disk full")

    with watched_by(fail):
        assert asyncio.run(reported("a cause")) == ""


def test_progress_begins_the_deadline_anew() -> None:
    count = 0

    async def work() -> str:
        nonlocal count
        for _ in range(10):
            await asyncio.sleep(40)
            count += 1
        return "done"

    assert run_virtually(waited(work(), what="w", owner="o", seconds=60, progress=lambda: count)) == "done"


def test_without_progress_a_wait_ends() -> None:
    async def main() -> float:
        begun = asyncio.get_running_loop().time()
        with pytest.raises(Overdue):
            await waited(asyncio.sleep(1000), what="w", owner="o", seconds=60, progress=lambda: 0)
        return asyncio.get_running_loop().time() - begun

    assert run_virtually(main()) == 60


@pytest.mark.parametrize("seconds", [60, math.inf])
def test_a_cancelled_wait_cancels_what_it_waited_for(seconds: float) -> None:
    async def main() -> bool:
        inner = asyncio.ensure_future(asyncio.sleep(60))
        outer = asyncio.create_task(waited(inner, what="w", owner="o", seconds=seconds))
        await asyncio.sleep(1)
        outer.cancel()
        await asyncio.gather(outer, return_exceptions=True)
        await asyncio.sleep(0)
        return inner.cancelled()

    assert run_virtually(main())
    assert waits.pending() == []


def test_queues_are_shown_while_they_exist() -> None:
    with shown("queue", lambda: "3 groups"):
        assert waits.gauges() == {"queue": "3 groups"}
    assert waits.gauges() == {}
