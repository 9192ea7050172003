"""The whole life of a job on several hosts with an address each, sent and steered from one more by address and token.

It spreads, is scaled onto a host that joins later, outlives the loss of one, is stopped, resumed and finishes. All is
real but the sampling engine: Ray nodes with a token, jobs, ranks that meet over the network, weights, placement.
"""

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from experience.store import read_trajectories
from tests.cluster.hosts import Hosts, address, hosts, until, why_not
from tests.cluster.small_runs import GROUP_SIZE, make_run
from tests.cluster.starts import last_step

pytestmark = pytest.mark.slow

NUM_STEPS, PROMPTS_PER_STEP = 40, 8
LIGHT_SUBMIT = (sys.executable, "-m", "tests.cluster.light_submit")
GATES = (10, 20, 30)  # steps before which the scoring waits until what is to happen has happened

RULE = """
import time
from pathlib import Path

def parity(item, folder):
    ordinal = int(item.id.partition(".")[0] or 0)  # a trial call has none
    for first, gate in GATES:
        while ordinal >= first and not Path(folder, gate).exists():
            time.sleep(0.05)
    return len(item.response) % 2
"""


class Scene:
    """The hosts, the run on them that a user sends from one more, and what was said and seen."""

    def __init__(self, folder: Path, made: Hosts) -> None:
        self.folder, self.hosts = folder, made
        self.seen: dict[str, Any] = {}
        self.said: dict[str, subprocess.CompletedProcess[str]] = {}
        made.add("--num-cpus=0")
        self.first, self.second = made.add("--num-cpus=2"), made.add("--num-cpus=2")
        self.user = made.plug_in()

    def run(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The command of a user, to its end."""
        command = self.hosts.inside(self.user, [*LIGHT_SUBMIT, *arguments, "--address", self.hosts.url])
        done = subprocess.run(
            command, cwd=self.folder, env=self.hosts.env, capture_output=True, text=True, timeout=240, check=False
        )
        self.said[name] = done
        return done

    def submit(self) -> None:
        """Once the cluster is up."""
        until(lambda: self.run("submit", "submit", "run.yaml", "--no-follow").returncode == 0, 90, "a submission")

    def open(self, gate: int) -> None:
        (self.folder / f"gate_{gate}").touch()

    def until_step(self, step: int) -> None:
        self.until(lambda: last_step(self.folder) >= step, f"step {step}")

    def until(self, condition: Callable[[], object], what: str, seconds: float = 120) -> None:
        try:
            until(condition, seconds, what)
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.log}; {self.said}") from None

    def workers(self) -> dict[str, str]:
        """The node of each worker that has one, as the run tells."""
        path = self.folder / "run" / "status.json"
        status = json.loads(path.read_text()) if path.exists() else {"workers": []}
        return {worker["name"]: worker["node"] for worker in status["workers"] if "node" in worker}

    def look(self, name: str, num_workers: int) -> None:
        """Where the workers are."""
        self.until(lambda: len(self.workers()) == num_workers, f"{num_workers} workers")
        self.seen[name] = self.workers()

    @property
    def log(self) -> str:
        """All that the run said, on one line."""
        path = self.folder / "run" / "run.log"
        return " ".join(path.read_text().split()) if path.exists() else "no log yet"


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    if reason := why_not():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("hosts")
    gates = tuple((step * PROMPTS_PER_STEP, f"gate_{number}") for number, step in enumerate(GATES))
    make_run(
        folder,
        rule=RULE.replace("GATES", repr(gates)),
        num_steps=NUM_STEPS,
        grace_seconds=2,
        trainer={"collective_timeout_seconds": 30, "placement": {"strategy": "strict_spread"}},
        rollout={
            "num_workers": 2,
            "prompts_per_step": PROMPTS_PER_STEP,
            "max_staleness": 1,
            "max_running_sequences": 4,
            "sampling": {"max_response_tokens": 100},
            "placement": {"strategy": "strict_spread"},
        },
        algorithm={"correction": "tis"},
    )
    with hosts() as made:
        told = Scene(folder, made)
        play(told)
        yield told


def play(scene: Scene) -> None:
    scene.submit()
    scene.until_step(GATES[0] - 2)
    scene.look("two hosts", 2)
    third = scene.hosts.add("--num-cpus=3")
    scene.seen["third"] = address(third)
    scene.run("scale", "scale", "run", "--rollout", "3")
    scene.look("three hosts", 3)
    scene.open(0)
    scene.until_step(GATES[1] - 2)
    scene.open(1)
    scene.hosts.cut_off(scene.first)
    scene.until(lambda: address(scene.first) not in scene.workers().values(), "the loss of a host")
    scene.hosts.join_again(scene.first)
    scene.until(lambda: scene.hosts.node_ended(scene.first), "the end of the node that was cut off")
    scene.hosts.start_node(scene.first, "--num-cpus=2")
    scene.until_step(GATES[1] + 2)
    scene.run("stop", "stop", "run")
    scene.run("status", "status", "run", "--json")
    scene.open(2)
    scene.run("resume", "submit", "run.yaml", "--resume")
    scene.run("end", "status", "--json")


def test_the_run_spreads_over_the_hosts(scene: Scene) -> None:
    assert set(scene.seen["two hosts"].values()) == {address(scene.first), address(scene.second)}


def test_scale_uses_a_host_that_joined_later(scene: Scene) -> None:
    assert scene.said["scale"].stdout == "2 -> 3 rollout workers: rollout-0, rollout-1, rollout-2\n"
    assert scene.seen["three hosts"]["rollout-2"] == scene.seen["third"]
    steps = [json.loads(line) for line in (scene.folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any(line.get("speed/rollout-2", 0) > 0 for line in steps)


def test_a_host_that_is_cut_off_costs_a_restart(scene: Scene) -> None:
    # It had a rank, too, which met the other one over the network.
    assert re.search(r"trainer rank \d of 2 failed .* new ranks go on from step_", scene.log)


def test_a_user_on_another_host_stops_the_run_and_resumes_it_to_its_end(scene: Scene) -> None:
    found = re.search(r"stopped after step (\d+)\n$", scene.said["stop"].stdout)
    assert found, scene.said
    assert GATES[1] < int(found[1]) <= GATES[2]
    assert json.loads(scene.said["status"].stdout)["state"] == "stopped"
    assert scene.said["resume"].returncode == 0, scene.said["resume"]
    assert scene.said["resume"].stdout.endswith("run: finished\n")
    assert {each["state"] for each in json.loads(scene.said["end"].stdout)} == {"finished", "stopped"}


def test_no_prompt_is_lost_or_doubled_on_the_way(scene: Scene) -> None:
    assert (scene.folder / "run" / "export" / "config.json").exists()
    files = sorted((scene.folder / "run" / "trajectories").glob("*.parquet"))
    assert len(files) == NUM_STEPS
    ordinals = Counter(o for file in files for o in read_trajectories(file).column("ordinal").to_pylist())
    assert set(ordinals.values()) == {GROUP_SIZE}
    assert len(ordinals) == NUM_STEPS * PROMPTS_PER_STEP
