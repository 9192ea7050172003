"""A run that goes on is looked at, scaled up and down, and stopped, by the commands that people use."""

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.status import read_status
from experience.store import read_trajectories
from tests.cluster.small_runs import GROUP_SIZE, make_run
from tests.cluster.starts import LIGHT_WUTONG, WUTONG, Start, last_step

pytestmark = pytest.mark.slow

PROMPTS_PER_STEP = 8


class Steered:
    """The run, and what was seen while it was steered."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.start = Start(folder, wutong=LIGHT_WUTONG)
        self.said: dict[str, subprocess.CompletedProcess[str]] = {}
        self.seen: dict[str, dict[str, Any]] = {}

    def command(self, name: str, *arguments: str) -> None:
        self.said[name] = subprocess.run(
            [*WUTONG, *arguments], cwd=self.folder, capture_output=True, text=True, timeout=300, check=False
        )

    def look(self, name: str) -> None:
        self.command(name, "status", "run", "--json")
        self.seen[name] = json.loads(self.said[name].stdout)

    def steps_pass(self) -> None:
        """So that a step lies wholly under the present number of workers."""
        before = last_step(self.folder)
        self.start.wait_until(lambda: last_step(self.folder) > before + 2, 120)

    def steps(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "run" / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def steered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Steered]:
    folder = tmp_path_factory.mktemp("steered")
    make_run(
        folder,
        num_steps=100_000,
        trainer={"num_ranks": 1},
        rollout={
            "prompts_per_step": PROMPTS_PER_STEP,
            "max_staleness": 1,
            "max_running_sequences": 4,
            "sampling": {"max_response_tokens": 100},
        },
        algorithm={"correction": "tis"},
        cluster={"num_cpus": 6},
        checkpoint={"every_steps": 0},
    )
    run = Steered(folder)
    try:
        run.steps_pass()
        run.start.wait_until(lambda: read_status(folder / "run" / "status.json").get("step"), 60)
        run.look("alone")
        run.command("second", "train", "run.yaml", "--resume")
        run.command("up", "scale", "run", "--rollout", "3")
        run.steps_pass()
        run.look("three")
        run.command("down", "scale", "run", "--rollout", "1")
        run.steps_pass()
        run.look("again")
        run.command("stop", "stop", "run")
        run.start.process.wait(timeout=60)
        run.look("end")
        run.command("late", "scale", "run", "--rollout", "2")
        yield run
    finally:
        run.start.process.kill()


def names(status: dict[str, Any]) -> list[str]:
    return [worker["name"] for worker in status["workers"]]


def test_status_tells_the_step_and_what_each_worker_does(steered: Steered) -> None:
    seen = steered.seen["alone"]
    assert seen["state"] == "running"
    assert (seen["run"], seen["pid"]) == ("run", steered.start.process.pid)
    assert 0 < seen["step"] < seen["num_steps"]
    (worker,) = seen["workers"]
    assert worker["state"] in ("sampling", "idle", "loading")
    assert worker["tokens"] > 0


def test_a_second_start_in_the_same_folder_is_refused_and_names_the_first(steered: Steered) -> None:
    second = steered.said["second"]
    assert second.returncode == 2
    assert "belongs to a run that is going on" in second.stderr
    assert str(steered.start.process.pid) in second.stderr


def test_scale_starts_workers_and_lets_the_newest_go(steered: Steered) -> None:
    assert steered.said["up"].stdout == "1 -> 3 rollout workers: rollout-0, rollout-1, rollout-2\n"
    assert names(steered.seen["three"]) == ["rollout-0", "rollout-1", "rollout-2"]
    assert steered.said["down"].stdout == "3 -> 1 rollout workers: rollout-0\n"
    assert names(steered.seen["again"]) == ["rollout-0"]


def test_the_metrics_tell_how_many_there_were_and_who_sampled(steered: Steered) -> None:
    counts = [line["rollout/workers"] for line in steered.steps() if "rollout/workers" in line]
    assert counts[0] == counts[-1] == 1
    assert max(counts) == 3
    busy = [line for line in steered.steps() if line.get("speed/rollout-2", 0) > 0]
    assert busy
    assert all(line["rollout/tokens_per_second"] >= line["speed/rollout-2"] for line in busy)


def test_stop_ends_the_run_with_a_checkpoint_and_says_where(steered: Steered) -> None:
    step = steered.seen["end"]["step"]
    assert steered.said["stop"].stdout == f"stopping after the step under way\nstopped after step {step}\n"
    assert steered.start.process.returncode == 75
    assert steered.seen["end"]["state"] == "stopped"
    assert (steered.folder / "run" / "checkpoints" / f"step_{step:06d}" / "manifest.json").exists()


def test_a_run_that_is_over_is_not_steered(steered: Steered) -> None:
    late = steered.said["late"]
    assert late.returncode == 2
    assert late.stderr.strip() == "run: nothing to scale: the run is stopped"


def test_no_prompt_is_lost_or_doubled_by_all_that(steered: Steered) -> None:
    files = sorted((steered.folder / "run" / "trajectories").glob("*.parquet"))
    ordinals = Counter(o for file in files for o in read_trajectories(file).column("ordinal").to_pylist())
    assert set(ordinals.values()) == {GROUP_SIZE}
    # What is trained on is in the order of finishing: up to max_staleness steps may be ahead of the last one.
    trained = len(files) * PROMPTS_PER_STEP
    assert len(ordinals) == trained
    assert max(ordinals) < trained + 2 * PROMPTS_PER_STEP
