"""Which worker is slow, of what the workers report."""

import time
from collections.abc import Sequence

import pytest

from actors.messages import Progress
from actors.pace import Pace, harvest_pause, share, slownesses


def pace(step_seconds: float, steps: int = 100) -> Pace:
    made = Pace()
    made.report(Progress(num_steps=steps, busy_seconds=steps * step_seconds))
    return made


def paces(*step_seconds: float) -> dict[str, Pace]:
    return {f"rollout-{index}": pace(seconds) for index, seconds in enumerate(step_seconds)}


@pytest.mark.parametrize(
    ("step_seconds", "expected"),
    [
        ((0.01, 0.011, 0.1), {"rollout-2": pytest.approx(0.1 / 0.0105)}),
        ((0.01, 0.02, 0.025), {}),  # within the factor
        ((0.01, 0.1), {"rollout-1": pytest.approx(10)}),
        ((0.1,), {}),  # nobody to compare with
    ],
)
def test_slow_is_who_takes_longer_than_the_others_for_a_step(
    step_seconds: Sequence[float], expected: dict[str, float]
) -> None:
    assert slownesses(paces(*step_seconds), 3.0, at_work=()) == expected


def test_a_worker_with_work_that_tells_of_no_step_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    found = paces(0.01, 0.01)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 7.0)
    assert slownesses(found, 3.0, at_work=["rollout-1"]) == {"rollout-1": pytest.approx(700, rel=0.01)}


def test_a_worker_without_work_is_idle_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    found = paces(0.01, 0.01)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 1000.0)
    assert slownesses(found, 3.0, at_work=()) == {}


def test_accounts_that_come_late_change_nothing() -> None:
    made = pace(0.01)
    made.report(Progress(num_steps=50, busy_seconds=5.0))
    assert made.step_seconds == pytest.approx(0.01)


def test_a_share_is_of_the_time_between_two_accounts() -> None:
    before = Progress(num_steps=10, num_tokens=100, busy_seconds=1.0)
    after = Progress(num_steps=20, num_tokens=400, busy_seconds=2.0)
    found = share(before, after, seconds=4.0)
    assert (found.tokens_per_second, found.idle_fraction) == (75.0, 0.75)


@pytest.mark.parametrize(("num_workers", "seconds"), [(1, 0.005), (64, 0.32), (100, 0.5), (1000, 0.5)])
def test_harvests_are_200_a_second_and_none_waits_longer_than_half_a_second(num_workers: int, seconds: float) -> None:
    assert harvest_pause(num_workers) == pytest.approx(seconds)
