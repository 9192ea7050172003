"""How a run ends. As each start takes long, one run meets every end: killed, stopped, interrupted,
robbed of a rank, finished.
"""

import json
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from experience.store import read_trajectories
from tests.cluster.small_runs import GROUP_SIZE, PROMPTS_PER_STEP, make_run
from tests.cluster.starts import Start, described, is_alive, last_step, saved_step

pytestmark = pytest.mark.slow

SECONDS_TO_VANISH = 30
KINDS = ("gcs_server", "raylet", "Agent", "RolloutWorker", "PolicyRank", "rewards")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What was seen of one start and its end. `left`: processes that outlived it by 30 s."""

    steps_before: int
    code: int
    seconds: float
    stderr: str
    kinds: set[str]
    left: list[str]
    saved_step: int


def end(start: Start, strike: Callable[[], Any], steps_before: int = 0) -> Ending:
    """Strike, and wait until the run is over and, for at most 30 s, its last process gone."""
    known = {process: described(process) for process in start.processes()}
    struck = time.monotonic()
    strike()
    code = start.process.wait(timeout=180)
    seconds = time.monotonic() - struck
    deadline = time.monotonic() + SECONDS_TO_VANISH
    while (left := start.processes() | {process for process in known if is_alive(process)}) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.1)
    return Ending(
        steps_before=steps_before,
        code=code,
        seconds=seconds,
        stderr=start.stderr,
        kinds={kind for text in known.values() for kind in KINDS if kind in text},
        left=[known.get(process) or described(process) for process in left],
        saved_step=saved_step(start.folder),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("endings")
    make_run(folder, checkpoint={"keep_last": 3})
    return folder


@pytest.fixture(scope="module")
def killed(folder: Path) -> Iterator[Ending]:
    """SIGKILL of the driver while the first steps' samples are scored."""
    start = Start(folder)
    steps = start.brake_after(1)
    yield end(start, start.process.kill, steps)


@pytest.fixture(scope="module")
def stopped(folder: Path, killed: Ending) -> Ending:
    """Resumed, and one Ctrl-C during a step."""
    start = Start(folder, "--resume")
    steps = start.brake_after(last_step(folder))

    def strike() -> None:
        start.interrupt()
        start.wait_until(lambda: "stopping after this step" in start.stderr, 10)
        (folder / "brake").unlink()

    return end(start, strike, steps)


@pytest.fixture(scope="module")
def interrupted(folder: Path, stopped: Ending) -> Ending:
    """Resumed, and two Ctrl-C during a step that would not end by itself."""
    start = Start(folder, "--resume")
    steps = start.brake_after(last_step(folder))

    def strike() -> None:
        start.interrupt()
        start.wait_until(lambda: "stopping after this step" in start.stderr, 10)
        start.interrupt()

    return end(start, strike, steps)


@pytest.fixture(scope="module")
def finished(folder: Path, interrupted: Ending) -> Ending:
    """Resumed, robbed of a rank while samples are scored, and let run to the end."""
    start = Start(folder, f"num_steps={interrupted.saved_step + 4}", "--resume")
    steps = start.brake_after(interrupted.saved_step)

    def strike() -> None:
        ranks = [process for process in start.processes() if "PolicyRank" in described(process)]
        ranks[-1].kill()
        (folder / "brake").unlink()

    return end(start, strike, steps)


def test_a_killed_driver_leaves_no_process(killed: Ending) -> None:
    assert killed.code == -signal.SIGKILL
    assert killed.kinds == set(KINDS), "the test must know every kind of process to see it gone"
    assert killed.left == []


def test_a_killed_run_leaves_the_checkpoint_of_its_last_step(killed: Ending) -> None:
    assert killed.saved_step == killed.steps_before


def test_one_interrupt_ends_the_step_saves_and_exits_with_75(stopped: Ending) -> None:
    assert stopped.code == 75
    assert stopped.saved_step == stopped.steps_before + 1
    assert stopped.left == []


def test_a_stopped_run_says_how_to_go_on_and_nothing_more(stopped: Ending) -> None:
    warning, advice = stopped.stderr.splitlines()
    assert "stopping after this step" in warning
    assert advice == f"stopped after step {stopped.saved_step}; go on with: wutong train run.yaml --resume"


def test_a_second_interrupt_ends_the_run_at_once(interrupted: Ending) -> None:
    assert interrupted.code == 1
    assert interrupted.seconds < 30
    assert interrupted.saved_step == interrupted.steps_before
    assert interrupted.left == []


def test_a_second_interrupt_is_told_in_one_line(interrupted: Ending) -> None:
    warning, last = interrupted.stderr.splitlines()
    assert "stopping after this step" in warning
    assert last == "stopped at once; the last checkpoint is as it was"


def test_a_lost_rank_is_told_in_one_line_and_the_run_goes_on_from_its_newest_checkpoint(finished: Ending) -> None:
    told = " ".join(finished.stderr.split())  # the log's lines are as wide as a terminal
    assert told.count("WARNING") == 1
    assert "failed in learn_from: its process died" in told
    assert f"new ranks go on from step_{finished.steps_before:06d} (restarts left: 2)" in told


def test_a_step_that_was_done_again_is_logged_once(folder: Path, finished: Ending) -> None:
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, finished.saved_step + 1))


def test_after_all_that_the_run_finishes(folder: Path, finished: Ending) -> None:
    assert (finished.code, finished.left) == (0, [])
    assert (folder / "run" / "export" / "config.json").exists()


def test_every_prompt_was_trained_on_exactly_once(folder: Path, finished: Ending) -> None:
    files = sorted((folder / "run" / "trajectories").glob("*.parquet"))
    assert len(files) == finished.saved_step
    ordinals = [ordinal for file in files for ordinal in read_trajectories(file).column("ordinal").to_pylist()]
    expected = range(finished.saved_step * PROMPTS_PER_STEP)
    assert Counter(ordinals) == Counter(dict.fromkeys(expected, GROUP_SIZE))
