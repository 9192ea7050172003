"""A recipe of stages with real training, struck with SIGKILL while it trains, and the same command again.

The rollout workers have the light engine, whose responses depend on seeds alone.
"""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from experience.parquet import read_parquet
from tests.actors.tiny_policies import load_policy
from tests.cluster.small_runs import make_run
from tests.cluster.starts import LIGHT_WUTONG, Start, last_step

pytestmark = pytest.mark.slow


def make_recipe(folder: Path) -> None:
    checkpoint = {"every_steps": 1, "keep_best": 1, "best_metric": "eval/reward_mean"}
    evaluation = {"every_steps": 1, "num_prompts": 4}
    make_run(
        folder, num_prompts=20, num_held_out=4, num_steps=4, checkpoint=checkpoint, evaluation=evaluation,
        trainer={"num_ranks": 1}, optimizer={"learning_rate": 1e-3},
    )  # fmt: skip
    (folder / "run.yaml").rename(folder / "rl.yaml")
    (folder / "long.py").write_text("def long(item):\n    return item.num_response_tokens\n")
    sampled = {
        "model": {"path": "${run.model}"}, "data": {"train": "prompts.jsonl", "max_prompt_tokens": 24},
        "rollout": {"sampling": {"max_response_tokens": 16}}, "rewards": [{"use": "long.py:long"}], "num_prompts": 12,
    }  # fmt: skip
    readable = [{"use": "rules.py:parity", "args": {"folder": str(folder)}}]
    stages = [
        {"name": "run", "recipe": "rl.yaml"},
        {"name": "pairs", "stage": "preferences", **sampled, "prompts_per_part": 5},
        {"name": "kept", "stage": "rejection_sampling", **sampled, "threshold": 4, "readable": readable},
        {"name": "handed", "stage": "export", "run": "${run.run}", "to": "handed", "checkpoint": "best"},
    ]
    recipe = {"name": "all", "output_dir": ".", "stages": stages}
    (folder / "run.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))


def started(folder: Path, *arguments: str) -> Start:
    return Start(folder, *arguments, wutong=LIGHT_WUTONG, command="run")


def gone(start: Start) -> None:
    """Wait until all that came from a driver that was killed has ended, in order: the stage gives up its step."""
    deadline = time.monotonic() + 180
    while left := start.processes():
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All stages finished, after one SIGKILL of the driver."""
    folder = tmp_path_factory.mktemp("stages")
    make_recipe(folder)
    start = started(folder)
    start.wait_until(lambda: last_step(folder / "all") >= 2, 120)
    (folder / "brake").touch()
    start.wait_until(lambda: (folder / "braked").exists(), 60)
    start.process.kill()
    gone(start)
    (folder / "steps_before").write_text(str(last_step(folder / "all")))
    start = started(folder)
    assert start.process.wait(300) == 0, start.stderr
    return folder


def records(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "all" / "stages.json").read_text())


def test_a_killed_driver_goes_on_where_it_was(folder: Path) -> None:
    steps = [json.loads(line)["step"] for line in (folder / "all" / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2, 3, 4], "no step was begun anew"
    assert "goes on from step_" in (folder / "all" / "run" / "run.log").read_text()
    found = records(folder)
    assert {record["state"] for record in found.values()} == {"finished"}
    assert found["run"]["begins"] == 1
    assert not list((folder / "all").glob("run.*"))


def test_preferences_hold_all_pairs_of_a_prompt_in_one_row(folder: Path) -> None:
    rows = read_parquet(folder / "all" / "pairs" / "train.parquet").to_pylist()
    assert 1 < len(rows) <= 12
    for row in rows:
        assert 2 <= len(row["responses"]) == len(row["ratings"]) <= 4
        assert len(set(row["responses"])) == len(row["responses"])
        assert row["ratings"] == row["rewards"]
    assert len(list((folder / "all" / "pairs" / "samples").iterdir())) == 3, "5 + 5 + 2 prompts"
    assert records(folder)["pairs"]["number"].startswith(f"{len(rows)} comparisons of 12 prompts")


def test_what_was_kept_is_right_and_readable(folder: Path) -> None:
    rows = read_parquet(folder / "all" / "kept" / "train.parquet").to_pylist()
    assert 0 < len(rows) <= 12
    assert all(row["reward"] >= 4 and len(row["response"]) % 2 for row in rows)
    assert len({row["prompt"] for row in rows}) == len(rows)


def test_the_best_checkpoint_is_handed_over_and_loads(folder: Path) -> None:
    best = json.loads((folder / "all" / "run" / "checkpoints" / "best.json").read_text())["best"]
    assert best == "step_000001", "the light engine answers alike at every step: the first of equal ones is best"
    assert records(folder)["handed"]["number"] == "step 1"
    first, handed, last = map(load_policy, (folder / "model", folder / "handed", folder / "all" / "run" / "export"))
    for other in (first, last):
        assert any(not a.equal(b) for a, b in zip(handed.parameters(), other.parameters(), strict=True))


def test_a_change_redoes_what_it_touches_and_keeps_the_old(folder: Path) -> None:
    before = (folder / "all" / "kept" / "train.parquet").read_bytes()
    start = started(folder, "kept.max_per_prompt=2")
    assert start.process.wait(200) == 0, start.stderr
    assert (folder / "all" / "kept.1" / "train.parquet").read_bytes() == before
    rows = read_parquet(folder / "all" / "kept" / "train.parquet").to_pylist()
    assert len(rows) > len({row["prompt"] for row in rows}), "two responses to some prompt"
    assert [record["begins"] for record in records(folder).values()] == [1, 1, 2, 1]
