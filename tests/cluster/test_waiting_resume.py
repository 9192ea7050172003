"""Groups that waited for training when a run was killed are trained on after its resume, and not sampled again."""

import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from experience.store import read_trajectories
from tests.cluster.small_runs import GROUP_SIZE, PROMPTS_PER_STEP, make_run
from tests.cluster.starts import LIGHT_WUTONG, Start, described, last_step, saved_step
from trainers import checkpoint

pytestmark = pytest.mark.slow


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """What waited in the checkpoint of `step`, and what each step was trained on in the end."""

    step: int
    waiting: list[dict[str, Any]]
    trained: dict[int, list[dict[str, Any]]]
    metrics: list[dict[str, Any]]


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Resumed:
    folder = tmp_path_factory.mktemp("waiting")
    make_run(folder, rollout={"max_staleness": 1}, algorithm={"correction": "tis"}, checkpoint={"keep_last": 5})
    start = Start(folder, wutong=LIGHT_WUTONG)
    step = kill_with_groups_waiting(start)
    waiting = read_trajectories(checkpoint.folder_of(folder / "run" / "checkpoints", step) / "buffer/groups.parquet")
    start = Start(folder, f"num_steps={step + 2}", "--resume", wutong=LIGHT_WUTONG)
    assert start.process.wait(timeout=300) == 0, start.stderr
    files = (folder / "run" / "trajectories").glob("*.parquet")
    tables = [read_trajectories(path).to_pylist() for path in sorted(files)]
    return Resumed(
        step=step,
        waiting=waiting.to_pylist(),
        trained={rows[0]["step"]: rows for rows in tables if rows[0]["step"] <= step + 2},
        metrics=[json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()],
    )


def kill_with_groups_waiting(start: Start) -> int:
    """Hold the training until the next step's samples are there, let it save once, and kill; the step saved."""
    start.wait_until(lambda: last_step(start.folder) >= 1, 120)
    ranks = [process for process in start.processes() if "PolicyRank" in described(process)]
    ranks[-1].suspend()
    time.sleep(3)  # the sampling goes on until the staleness bound stops it
    before = saved_step(start.folder)
    ranks[-1].resume()
    checkpoints = start.folder / "run" / "checkpoints"
    start.wait_until(lambda: any(waits(path) for path in checkpoint.all_checkpoints(checkpoints)[-2:]), 60)
    start.process.kill()
    start.process.wait()
    deadline = time.monotonic() + 60
    while start.processes():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    while not waits(checkpoint.folder_of(checkpoints, saved_step(start.folder))):
        # A step further, and nothing waited there: the run goes on from the one before.
        checkpoint.folder_of(checkpoints, saved_step(start.folder)).rename(start.folder / f"later_{time.monotonic()}")
    assert saved_step(start.folder) >= before
    return saved_step(start.folder)


def waits(folder: Path) -> bool:
    return (folder / "buffer" / "groups.parquet").exists()


def test_what_waited_is_trained_on_as_it_was_sampled(resumed: Resumed) -> None:
    assert resumed.waiting
    later = {row["id"]: row for step, rows in resumed.trained.items() if step > resumed.step for row in rows}
    passing = {"step", "advantage"}
    for row in resumed.waiting:
        found = later[row["id"]]
        assert {name: found[name] for name in found if name not in passing} == {
            name: row[name] for name in row if name not in passing
        }


def test_every_prompt_was_trained_on_once_and_none_was_skipped(resumed: Resumed) -> None:
    assert list(resumed.trained) == list(range(1, resumed.step + 3))
    ordinals = Counter(row["ordinal"] for rows in resumed.trained.values() for row in rows)
    assert ordinals == Counter(dict.fromkeys(range((resumed.step + 2) * PROMPTS_PER_STEP), GROUP_SIZE))


def test_no_sample_is_older_than_the_bound(resumed: Resumed) -> None:
    assert [line["step"] for line in resumed.metrics] == list(range(1, resumed.step + 3))
    assert max(line["staleness/max"] for line in resumed.metrics) <= 1
