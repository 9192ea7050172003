"""The README's custom reward in a folder of the user's own: with `wutong train`, and in a submitted job."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from experience.store import read_trajectories
from tests.actors.tiny_policies import make_policy
from tests.cluster.tiny_recipes import DATA

pytestmark = pytest.mark.slow  # each run starts a Ray cluster and all engines

BIN = Path(sys.executable).parent
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


def environment(**changes: str) -> dict[str, str]:
    """This process's, without what points to any Ray cluster."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | changes


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


@pytest.fixture
def head() -> Iterator[dict[str, str]]:
    """A Ray head on free loopback ports, which wants a token; the environment that a submission needs."""
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port")
    ports = dict(zip((*names, "metrics-export-port", "ray-client-server-port"), free_ports(6), strict=True))
    temp = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short: a socket's path has a limit
    url = f"http://127.0.0.1:{ports['dashboard-port']}"
    env = environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32), RAY_USAGE_STATS_ENABLED="0")
    options = ["--num-cpus=4", "--node-ip-address=127.0.0.1", f"--temp-dir={temp}"]
    command = [str(BIN / "ray"), "start", "--head", "--block", *options, *(f"--{n}={p}" for n, p in ports.items())]
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(url, env["RAY_AUTH_TOKEN"])
        yield env | {"RAY_API_SERVER_ADDRESS": url}
    finally:
        children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        psutil.wait_procs(children, timeout=15)
        for child in [child for child in children if child.is_running()]:
            child.kill()
        process.wait(timeout=15)
        shutil.rmtree(temp, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_for(url: str, token: str) -> None:
    """Until the job server lists jobs."""
    request = urllib.request.Request(f"{url}/api/jobs/", headers={"Authorization": f"Bearer {token}"})
    deadline = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                assert json.loads(answer.read()) == []
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def test_it_works_in_a_submitted_job(folder: Path, head: dict[str, str]) -> None:
    entry = [str(BIN / "wutong"), "train", "run.yaml", "cluster.address=auto"]
    run([str(BIN / "ray"), "job", "submit", "--working-dir", str(folder), "--", *entry], folder, head)
    check_run(folder)
