"""SIGTERM to whole runs where a stop is hardest: while they start, and while a step can't end."""

import re
import signal
import time
from pathlib import Path

import pytest

from tests.cluster.starts import LIGHT_WUTONG
from tests.cluster.test_endings import SECONDS_TO_VANISH, Start, described, end, folder, last_step

__all__ = ["folder"]

pytestmark = pytest.mark.slow


def terminate(start: Start) -> None:
    start.process.send_signal(signal.SIGTERM)


def test_a_stop_while_a_run_starts_leaves_nothing_and_says_so_in_one_line(folder: Path) -> None:
    start = Start(folder, wutong=LIGHT_WUTONG)
    start.wait_until(lambda: any("raylet" in described(process) for process in start.processes()), 60)
    terminate(start)
    assert start.process.wait(60) == 75
    (line,) = start.stderr.splitlines()
    assert re.fullmatch(r"stopped before the first step \(SIGTERM.*\); the same command begins again", line)
    deadline = time.monotonic() + SECONDS_TO_VANISH
    while (left := start.processes()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [described(process) for process in left] == []


def test_without_its_head_a_run_ends_with_one_line_and_leaves_nothing(folder: Path) -> None:
    start = Start(folder, wutong=LIGHT_WUTONG)
    steps = start.brake_after(1)

    def behead() -> None:
        (head,) = [process for process in start.processes() if process.name() == "gcs_server"]
        head.kill()

    ending = end(start, behead, steps)
    assert ending.code == 75
    assert ending.seconds < 60
    assert ending.left == []
    assert ending.saved_step == steps
    (line,) = ending.stderr.splitlines()
    assert re.fullmatch(
        r"the head of the Ray cluster at [\d.:]+ is gone; the last checkpoint is as it was, and .*", line
    )


def test_samples_that_do_not_come_within_the_grace_are_given_up(folder: Path) -> None:
    start = Start(folder, "grace_seconds=1", "--resume")
    steps = start.brake_after(last_step(folder))
    ending = end(start, lambda: terminate(start), steps)
    assert ending.code == 75
    assert ending.seconds < 30
    assert ending.saved_step == ending.steps_before == last_step(folder)
    assert ending.left == []
    assert f"the samples of step {steps + 1} are given up" in " ".join(ending.stderr.split())
    assert f"stopped after step {steps}; go on with: wutong train run.yaml grace_seconds=1 --resume" in ending.stderr
