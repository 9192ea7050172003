"""The README's custom reward in a folder of the user's own: with `wutong train`, and in a submitted job."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from experience.store import read_trajectories
from tests.actors.tiny_policies import make_policy
from tests.cluster.heads import BIN, environment, ray_head
from tests.cluster.tiny_recipes import DATA

pytestmark = pytest.mark.slow  # each run starts a Ray cluster and all engines

README_RULE = '''\
# my_rules.py
def brevity(item, target=400) -> float:
    """1 up to `target` characters, then falling to 0."""
    return min(1.0, target / max(1, len(item.response)))
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a user would have: the rule, a module with the name of one of our packages, and a recipe."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "my_rules.py").write_text(README_RULE)
    (folder / "rewards.py").write_text("raise RuntimeError('the file of the user was taken for our package')")
    recipe: dict[str, Any] = {
        "name": "brief",
        "stage": "rl",
        "output_dir": str(tmp_path / "runs"),
        "model": {"path": str(make_policy(tmp_path / "policy"))},
        "data": {**DATA, "max_prompt_tokens": 24},
        "trainer": {"num_ranks": 1, "tokens_per_micro_batch": 512},
        "rollout": {"prompts_per_step": 2, "group_size": 2, "sampling": {"max_response_tokens": 16}},
        "rewards": [{"use": "./my_rules.py:brevity", "weight": 0.1, "args": {"target": 8}}],
        "algorithm": {"name": "grpo", "kl_coef": 0},
        "evaluation": {"num_prompts": 2},
        "num_steps": 1,
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def run(command: list[str], folder: Path, env: dict[str, str]) -> None:
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


def check_run(folder: Path) -> None:
    rows = read_trajectories(folder.parent / "runs" / "brief" / "trajectories" / "step_000001.parquet").to_pylist()
    assert len(rows) == 4
    for row in rows:
        assert row["reward"] == pytest.approx(0.1 * min(1, 8 / max(1, len(row["response"]))))


def test_it_works_from_the_users_folder(folder: Path) -> None:
    run([str(BIN / "wutong"), "train", "run.yaml"], folder, environment())
    check_run(folder)


def test_it_works_in_a_submitted_job(folder: Path) -> None:
    entry = [str(BIN / "wutong"), "train", "run.yaml", "cluster.address=auto"]
    with ray_head() as head:
        env = head.environment | {"RAY_API_SERVER_ADDRESS": head.url}
        run([str(BIN / "ray"), "job", "submit", "--working-dir", str(folder), "--", *entry], folder, env)
    check_run(folder)
