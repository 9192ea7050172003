"""`wutong` tells what is wrong in one line and with the right exit code, before anything heavy starts."""

import asyncio
import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.folder import RunFolder
from cluster.resuming import run_snapshot
from configs.load import load_run
from tests.actors.tiny_policies import make_policy
from trainers import checkpoint

WUTONG = Path(sys.executable).with_name("wutong")
# Five seconds on an idle machine. Wall-clock time would measure what else runs; CPU time grows by half at most.
CPU_SECONDS = 7.5

RULES = "def fair(item):\n    return 1.0\n\n\ndef needs_two(item, other):\n    return 1.0\n"
ROWS = [{"prompt": f"1 + {number} =", "answer": str(number + 1)} for number in range(8)]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run of reinforcement learning that would start."""
    folder = tmp_path_factory.mktemp("run")
    make_policy(folder / "model")
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "rules.py").write_text(RULES)
    return {
        "stage": "rl",
        "name": "run",
        "num_steps": 1,
        "model": {"path": str(folder / "model")},
        "data": {"train": str(folder / "prompts.jsonl"), "max_prompt_tokens": 24},
        "rollout": {"prompts_per_step": 2, "group_size": 2, "sampling": {"max_response_tokens": 16}},
        "rewards": [{"use": f"{folder}/rules.py:fair"}],
        "algorithm": {"name": "grpo", "kl_coef": 0},
    }


@pytest.fixture
def wutong(tmp_path: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Runs the command in a folder of its own. Ray's folder would show that Ray was started."""
    environment = {**os.environ, "RAY_TMPDIR": str(tmp_path / "ray"), "HF_HUB_OFFLINE": "1"}

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [str(WUTONG), *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env={**environment, **variables}, capture_output=True, text=True, timeout=60
        )

    yield run
    assert not (tmp_path / "ray").exists()


@contextmanager
def at_most(cpu_seconds: float) -> Iterator[None]:
    """What child processes inside may spend."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    yield
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < cpu_seconds


def nothing(folder: Path) -> None:
    """No preparation."""


def leave_an_earlier_run(folder: Path) -> None:
    (folder / "runs" / "run").mkdir(parents=True)
    (folder / "runs" / "run" / "metrics.jsonl").write_text("")


@pytest.mark.parametrize(
    ("change", "said", "prepare"),
    [
        ("model.path=/nowhere/model", "/nowhere/model", nothing),
        ("data.train=/nowhere/prompts.jsonl", "/nowhere/prompts.jsonl", nothing),
        ("optimizer.lerning_rate=1e-3", "did you mean", nothing),
        ("rollout.group_size=1", "rollout.group_size", nothing),
        ("rewards.0.use=mathh", "mathh", nothing),
        ("rewards.0.use={rules}:needs_two", "needs_two", nothing),
        ("rewards.0.use={rules}:unfair", "unfair", nothing),
        ("name=run", "holds an earlier run", leave_an_earlier_run),
        ("rollout.sampling.max_response_tokens=250", "takes 256", nothing),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2_before_ray_starts(
    recipe: dict[str, Any],
    wutong: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
    change: str,
    said: str,
    prepare: Callable[[Path], None],
) -> None:
    prepare(tmp_path)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(recipe))
    rules = recipe["rewards"][0]["use"].partition(":")[0]
    with at_most(CPU_SECONDS):
        result = wutong("train", "run.yaml", change.replace("{rules}", rules))
    assert (result.returncode, len(result.stderr.splitlines()), result.stdout) == (2, 1, ""), result.stderr
    assert said in result.stderr


def test_a_reward_server_that_is_away_is_one_line_and_exit_code_1(
    recipe: dict[str, Any], wutong: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    away = {"use": "http", "args": {"url": "http://127.0.0.1:9", "outage_seconds": 0.1}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**recipe, "rewards": [away]}))
    result = wutong("train", "run.yaml", WUTONG_REWARD_TOKEN="x")
    assert (result.returncode, len(result.stderr.splitlines())) == (1, 1), result.stderr
    assert "http://127.0.0.1:9 did not answer" in result.stderr


def test_verbose_shows_where_a_failure_came_about(
    recipe: dict[str, Any], wutong: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**recipe, "rewards": [{"use": "mathh"}]}))
    result = wutong("--verbose", "train", "run.yaml")
    assert result.returncode == 2
    assert "Traceback" in result.stderr and "rewards/" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("/nowhere/model", "{data}"), "/nowhere/model"),
        (("{model}", "/nowhere/prompts.jsonl"), "/nowhere/prompts.jsonl"),
        (("{model}", "{data}", "--max-response-tokens", "16", "--reward", "mathh"), "mathh"),
        (("{model}", "{data}", "--max-response-tokens", "300"), "takes 256"),
    ],
)
def test_wrong_input_of_evaluate_is_one_line_and_exit_code_2(
    recipe: dict[str, Any],
    wutong: Callable[..., subprocess.CompletedProcess[str]],
    arguments: tuple[str, ...],
    said: str,
) -> None:
    given = {"{model}": recipe["model"]["path"], "{data}": recipe["data"]["train"]}
    with at_most(CPU_SECONDS):
        result = wutong("evaluate", *(given.get(argument, argument) for argument in arguments))
    assert (result.returncode, len(result.stderr.splitlines()), result.stdout) == (2, 1, ""), result.stderr
    assert said in result.stderr


def test_a_resume_is_refused_in_one_line_where_the_recipe_or_the_newest_checkpoint_is_another(
    recipe: dict[str, Any], wutong: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**recipe, "output_dir": str(tmp_path / "runs")}))
    run = load_run(tmp_path / "run.yaml", [])
    folder = checkpoint.folder_of(RunFolder(run).checkpoints, 1)
    draft = checkpoint.begin(folder)
    asyncio.run(run_snapshot(run, {"step": 1})(draft))
    checkpoint.commit(draft, folder, checkpoint.Written(world_size=1, config_digest=""))
    differing = wutong("train", "run.yaml", "seed=3", "--resume")
    assert differing.returncode == 2
    assert differing.stderr == (
        f"{folder}: its recipe differs in seed (0, now 3); set each back, or resume with --allow KEY for each\n"
    )
    (folder / "state.json").write_bytes(b"{}")
    damaged = wutong("train", "run.yaml", "--resume", "--exact")
    assert damaged.returncode == 2
    assert re.fullmatch(r".*step_000001/state\.json: 2 bytes, the manifest says \d+\n", damaged.stderr)
    alone = wutong("train", "run.yaml", "--exact")
    assert (alone.returncode, alone.stderr.count("\n")) == (2, 1) and "no effect without --resume" in alone.stderr
