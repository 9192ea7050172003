"""Groups that waited for training when a run was killed are trained on after its resume, and not sampled again."""

import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from experience.store import read_trajectories
from tests.actors.tiny_policies import make_policy
from tests.cluster.starts import RULES, Start, described, last_step, saved_step
from trainers import checkpoint

pytestmark = pytest.mark.slow

PROMPTS_PER_STEP, GROUP_SIZE = 4, 2


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
    make_run(folder)
    start = Start(folder)
    step = kill_with_groups_waiting(start)
    waiting = read_trajectories(checkpoint.folder_of(folder / "run" / "checkpoints", step) / "buffer/groups.parquet")
    start = Start(folder, f"num_steps={step + 2}", "--resume")
    assert start.process.wait(timeout=300) == 0, start.stderr
    files = (folder / "run" / "trajectories").glob("*.parquet")
    tables = [read_trajectories(path).to_pylist() for path in sorted(files)]
    return Resumed(
        step=step,
        waiting=waiting.to_pylist(),
        trained={rows[0]["step"]: rows for rows in tables if rows[0]["step"] <= step + 2},
        metrics=[json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()],
    )


def make_run(folder: Path) -> None:
    make_policy(folder / "model")
    rows = [{"prompt": f"{number} + 1 =", "answer": str(number + 1)} for number in range(50)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "rules.py").write_text(RULES)
    sampling = {"max_staleness": 1, "sampling": {"max_response_tokens": 16}}
    recipe = {
        "stage": "rl",
        "name": "run",
        "output_dir": str(folder),
        "num_steps": 1000,
        "model": {"path": str(folder / "model")},
        "data": {"train": str(folder / "prompts.jsonl"), "max_prompt_tokens": 24},
        "trainer": {"num_ranks": 2, "tokens_per_micro_batch": 512},
        "rollout": {"prompts_per_step": PROMPTS_PER_STEP, "group_size": GROUP_SIZE, **sampling},
        "rewards": [{"use": f"{folder}/rules.py:parity", "args": {"folder": str(folder)}}],
        "algorithm": {"name": "grpo", "kl_coef": 0, "correction": "tis"},
        "checkpoint": {"every_steps": 1, "keep_last": 5},
        "logging": {"tensorboard": False},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(recipe))


def kill_with_groups_waiting(start: Start) -> int:
    """Hold the training until the next step's samples are there, let it save once, and kill; the step saved."""
    start.wait_until(lambda: last_step(start.folder) >= 1, 120)
    ranks = [process for process in start.processes() if "TrainerRank" in described(process)]
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
