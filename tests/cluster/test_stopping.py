"""How a run is stopped: what is finished, what is given up, what is cancelled. On a virtual clock."""

import asyncio
import os
import signal
from contextlib import suppress
from typing import Any

import pytest

from cluster.signals import Interrupted
from cluster.stopping import Stop, Stopped
from cluster.virtual_clock import run_virtually
from tests.cluster.light_loops import make_loop
from tests.trainers.test_loop import Recorder, Sampler
from trainers.loop import Loop
from trainers.observer import Observer
from trainers.patience import GivenUp, Patience

GRACE = 20.0


class SlowSampler(Sampler):
    """Takes so many seconds a group."""

    def __init__(self, seconds: float) -> None:
        super().__init__([])
        self._seconds = seconds

    async def generate(self, prompt: Any, sampling: Any) -> Any:
        await asyncio.sleep(self._seconds)
        return await super().generate(prompt, sampling)


class SlowLearner(Recorder):
    """Takes so many seconds an update."""

    def __init__(self, seconds: float) -> None:
        super().__init__([])
        self._seconds = seconds

    async def update(self, batch: Any) -> Any:
        await asyncio.sleep(self._seconds)
        return await super().update(batch)


def stopped_after(seconds: float, loop: Loop) -> tuple[int, float]:
    """Steps done, and when the loop had ended, in a run that was asked to stop after so many seconds."""
    stop = Stop(grace_seconds=GRACE, max_hours=seconds / 3600)

    async def run() -> float:
        with stop.ends(loop.stop, loop.give_up):
            await loop.run(Observer())
        return asyncio.get_running_loop().time()

    ended = run_virtually(stop.guards(run()))
    return loop.step, ended


def test_the_step_under_way_is_finished_within_the_grace() -> None:
    loop = make_loop(steps=9, rollouts=SlowSampler(30), learner=SlowLearner(10))
    assert stopped_after(55, loop) == (2, 80.0)  # steps end at 40 and 80; the second's samples are there at 70


def test_samples_that_take_longer_are_given_up_and_due_again() -> None:
    loop = make_loop(steps=9, rollouts=SlowSampler(30), learner=SlowLearner(10))
    assert stopped_after(45, loop) == (1, 65.0)
    assert loop.state().items() >= {"cursor": 4, "begun": [2, 3], "waiting": []}.items()


def test_an_update_that_has_begun_is_finished_however_long_it_takes() -> None:
    loop = make_loop(steps=9, rollouts=SlowSampler(30), learner=SlowLearner(100))
    assert stopped_after(40, loop) == (1, 130.0)


def test_a_stop_before_the_first_step_waits_for_the_grace_only() -> None:
    class Evaluating(Observer):
        async def before_training(self, step: int) -> None:
            await asyncio.sleep(1000)

    loop = make_loop(steps=9)
    stop = Stop(grace_seconds=GRACE, max_hours=1 / 3600)

    async def run() -> float:
        with stop.ends(loop.stop, loop.give_up):
            await loop.run(Evaluating())
        return asyncio.get_running_loop().time()

    assert run_virtually(stop.guards(run())) == 1 + GRACE
    assert loop.step == 0


def test_an_evaluation_is_given_up_after_the_grace_and_the_step_before_it_counts() -> None:
    loop = make_loop(steps=9)

    class Evaluating(Observer):
        async def after_step(self, step: int) -> None:
            with suppress(GivenUp):
                await loop.patience.awaits(asyncio.sleep(1000), what="an evaluation")

    stop = Stop(grace_seconds=GRACE, max_hours=1 / 3600)

    async def run() -> float:
        with stop.ends(loop.stop, loop.give_up):
            await loop.run(Evaluating())
        return asyncio.get_running_loop().time()

    assert run_virtually(stop.guards(run())) == 1 + GRACE
    assert loop.step == 1
    assert loop.is_between_steps


def test_nothing_is_waited_for_once_patience_is_over() -> None:
    patience = Patience()
    patience.end()
    with pytest.raises(GivenUp):
        run_virtually(patience.awaits(asyncio.sleep(1000), what="an evaluation"))


def test_a_stop_during_the_start_cancels_it_and_says_so() -> None:
    stop = Stop(grace_seconds=GRACE, max_hours=1 / 3600)
    with pytest.raises(Stopped, match=r"^stopped before the first step \(max_hours=0.000277778\); the same command"):
        run_virtually(stop.guards(asyncio.sleep(1000)))


def test_a_request_after_the_last_step_does_not_disturb_the_save() -> None:
    stop = Stop(grace_seconds=GRACE, max_hours=1 / 3600)

    async def run() -> str:
        with stop.ends(lambda: None, lambda: None):
            await asyncio.sleep(1000)
            return "saved"

    assert run_virtually(stop.guards(run())) == "saved"


def test_a_second_signal_ends_the_run_at_once() -> None:
    stop = Stop(grace_seconds=GRACE)

    async def run() -> None:
        with stop.ends(lambda: None):
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(0.05)
            assert stop.reason == "SIGTERM; again to end at once"
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(60)

    with pytest.raises(Interrupted, match="the last checkpoint is as it was"):
        asyncio.run(stop.guards(run()))


def test_the_first_reason_stays(caplog: pytest.LogCaptureFixture) -> None:
    stop = Stop(grace_seconds=GRACE)

    async def run() -> None:
        with stop.ends(lambda: None):
            stop.request("wutong stop")
            stop.request("another")

    asyncio.run(stop.guards(run()))
    assert stop.reason == "wutong stop"
    assert [record.message for record in caplog.records] == ["stopping after this step (wutong stop)"]
