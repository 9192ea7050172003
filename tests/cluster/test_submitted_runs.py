"""The whole life of a job on a cluster that is spoken to by address and token alone, with another run beside it."""

import contextlib
import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.logs import logs
from cli.main import main
from cluster import errand
from cluster.job_server import JobServer
from experience.store import read_trajectories
from tests.actors.tiny_policies import make_policy
from tests.cluster.heads import Head, ray_head
from tests.cluster.light_submit import LIGHT_PROGRAM
from tests.cluster.starts import ROOT

pytestmark = pytest.mark.slow

LIGHT_SUBMIT = (sys.executable, "-m", "tests.cluster.light_submit")
RULES = """
from pathlib import Path

import rewards
from words import GOOD  # beside this file, as helpers of users are

def parity(item, folder):
    Path(folder, "ours").write_text(rewards.__file__)
    return GOOD * (len(item.response) % 2)
"""


class Client:
    """A user's machine: a folder, an address, a token, and what was said and seen."""

    def __init__(self, folder: Path, head: Head) -> None:
        self.folder, self.head = folder, head
        # The token is all that is needed: RAY_AUTH_MODE is the cluster's.
        self.environment = {**head.environment, "PYTHONPATH": str(ROOT)}
        del self.environment["RAY_AUTH_MODE"]
        self.said: dict[str, subprocess.CompletedProcess[str]] = {}
        self.seen: dict[str, Any] = {}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """The command in a process of its own."""
        return subprocess.Popen(
            [*LIGHT_SUBMIT, *arguments, "--address", self.head.url],
            cwd=self.folder, env=self.environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, name: str, *arguments: str) -> None:
        """The command in this process, which has imported Ray already."""
        out, err, code = io.StringIO(), io.StringIO(), 0
        with pytest.MonkeyPatch.context() as patch, contextlib.chdir(self.folder):
            patch.setattr("cluster.jobs.PROGRAM", LIGHT_PROGRAM)
            patch.setattr("sys.argv", ["wutong", *arguments, "--address", self.head.url])
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    main()
                except SystemExit as exit:
                    code = int(exit.code or 0)
        self.said[name] = subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())

    def look(self, name: str, *arguments: str) -> None:
        self.run(name, "status", *arguments, "--json")
        self.seen[name] = json.loads(self.said[name].stdout)


def steps(folder: Path, run: str) -> list[dict[str, Any]]:
    path = folder / "runs" / run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_until(condition: Callable[[], object], say: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, say()
        time.sleep(0.1)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("client")
    rows = [{"prompt": f"{number} + 1 =", "answer": str(number + 1)} for number in range(50)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "my_rules.py").write_text(RULES)
    (folder / "words.py").write_text("GOOD = 1\n")
    (folder / "rewards.py").write_text("raise RuntimeError('the file of the user was taken for our package')")
    (folder / ".env").write_text("TOKEN=canary")
    recipe = {
        "stage": "rl",
        "name": "mine",
        "output_dir": str(folder / "runs"),
        "num_steps": 100_000,
        "model": {"path": str(make_policy(folder / "policy"))},
        "data": {"train": "prompts.jsonl", "max_prompt_tokens": 24},
        "trainer": {"tokens_per_micro_batch": 512},
        "rollout": {
            "prompts_per_step": 4,
            "group_size": 2,
            "max_running_sequences": 4,
            "sampling": {"max_response_tokens": 60},
        },
        "rewards": [{"use": "./my_rules.py:parity", "args": {"folder": str(folder)}}],
        "algorithm": {"name": "grpo", "kl_coef": 0},
        "logging": {"tensorboard": False},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(recipe))
    with ray_head(num_cpus=8, PYTHONPATH=str(ROOT)) as head:
        yield Client(folder, head)


@pytest.fixture(scope="module")
def life(client: Client) -> Client:
    """From the first submission to the end of a resumed run; `other` goes on meanwhile."""
    folder, run = client.folder, client.run
    run("submit", "submit", "run.yaml", "--no-follow")
    other = client.start("submit", "run.yaml", "name=other")
    run("again", "submit", "run.yaml", "--no-follow")
    for name in ("mine", "other"):
        wait_until(lambda name=name: len(steps(folder, name)) > 1, lambda: [c.stderr for c in client.said.values()])
    client.look("all")
    run("up", "scale", "mine", "--rollout", "2")
    client.look("two", "mine")
    run("down", "scale", "mine", "--rollout", "1")
    run("stop", "stop", "mine")
    client.seen["steps of other"] = len(steps(folder, "other"))
    run("logs", "logs", "mine", "--tail", "3")
    run("late", "stop", "mine")
    wait_until(lambda: len(steps(folder, "other")) > client.seen["steps of other"] + 1, lambda: "other stands still")
    client.seen["other"] = errand.status(folder / "runs" / "other")
    errand.stop(folder / "runs" / "other")
    last = max(line["step"] for line in steps(folder, "mine"))
    run("resume", "submit", "run.yaml", f"num_steps={last + 2}", "--resume")
    stdout, stderr = other.communicate(timeout=60)
    client.said["other"] = subprocess.CompletedProcess(other.args, other.returncode, stdout, stderr)
    client.look("end")
    return client


def test_a_run_is_sent_and_a_second_of_its_name_refused(life: Client) -> None:
    first, second = life.said["submit"], life.said["again"]
    assert re.match(r"mine: mine-\d{8}-\d{6}-\w{4}, 1\.\d MiB sent\n", first.stdout), first
    assert second.returncode == 2
    assert re.fullmatch(r"http://\S+: a run 'mine' goes on there \(mine-\S+, (starting|running)\); .*\n", second.stderr)


def test_the_job_runs_our_code_and_finds_the_users_rule_with_its_helper(life: Client) -> None:
    assert "working_dir_files" in (life.folder / "ours").read_text()
    assert max(line.get("reward/mean", 0) for line in steps(life.folder, "mine")) > 0


def test_status_and_scale_work_by_address(life: Client) -> None:
    assert {(run["run"], run["state"], run["stage"]) for run in life.seen["all"]} == {
        ("mine", "running", "rl"),
        ("other", "running", "rl"),
    }
    assert life.said["up"].stdout == "1 -> 2 rollout workers: rollout-0, rollout-1\n", life.said["up"]
    assert [worker["name"] for worker in life.seen["two"]["workers"]] == ["rollout-0", "rollout-1"]
    assert life.said["down"].stdout == "2 -> 1 rollout workers: rollout-0\n"


def test_stop_ends_a_run_where_it_can_be_resumed(life: Client) -> None:
    stop, logs, late = (life.said[name] for name in ("stop", "logs", "late"))
    found = re.fullmatch(r"stopping after the step under way\nstopped after step (\d+)\n", stop.stdout)
    assert found, stop
    assert f"stopped after step {found[1]}; go on with: wutong submit run.yaml --resume" in logs.stdout
    assert len(logs.stdout.splitlines()) == 3
    assert (late.returncode, late.stderr) == (2, "mine: nothing to stop: the run is stopped\n")


def test_resume_goes_on_and_follows_the_log_to_the_end(life: Client) -> None:
    done, numbers = life.said["resume"], [line["step"] for line in steps(life.folder, "mine")]
    assert done.returncode == 0, done
    assert numbers == list(range(1, numbers[-1] + 1))
    assert f"step {numbers[-1]}/{numbers[-1]}" in done.stdout
    assert done.stdout.endswith("mine: finished\n")
    assert [(run["run"], run["state"]) for run in life.seen["end"]] == [
        ("mine", "finished"),
        ("other", "stopped"),
        ("mine", "stopped"),
    ]


def test_the_run_beside_it_is_untouched(life: Client) -> None:
    other = life.said["other"]
    assert other.returncode == 75, other
    assert other.stdout.endswith("other: stopped\n")
    assert {line["rollout/workers"] for line in steps(life.folder, "other")} == {1}
    assert (life.seen["other"]["restarts"], len(life.seen["other"]["workers"])) == (0, 1)
    for run in ("mine", "other"):
        files = sorted((life.folder / "runs" / run / "trajectories").glob("*.parquet"))
        ordinals = [o for file in files for o in read_trajectories(file).column("ordinal").to_pylist()]
        assert sorted(ordinals) == sorted([*range(4 * len(files))] * 2)


def test_the_log_is_in_the_folder_too(life: Client, capsys: pytest.CaptureFixture[str]) -> None:
    logs(str(life.folder / "runs" / "mine"), follow=True)
    lines = capsys.readouterr().out.splitlines()
    assert re.search(r"INFO begun in \S+/runs/mine$", lines[0])
    assert any("WARNING stopping after this step (wutong stop)" in line for line in lines)
    assert any(re.search(r"INFO goes on from step_\d{6}$", line) for line in lines)
    assert re.search(r"INFO finished after step \d+$", lines[-1])


def test_the_token_is_in_nothing_that_was_said_or_sent(life: Client) -> None:
    token = life.head.environment["RAY_AUTH_TOKEN"]
    assert all(token not in done.stdout + done.stderr for done in life.said.values())
    described = str(JobServer(life.head.url).jobs())
    assert "wutong" in described
    assert token not in described
