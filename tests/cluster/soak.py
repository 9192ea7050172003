"""One run under `kill -9`s of random processes at random moments, resumed whenever it ended, until it has finished."""

import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from experience.store import read_trajectories
from tests.cluster.small_runs import make_run
from tests.cluster.starts import WUTONG, Start, described

NUM_PROMPTS = 30  # the data set does not divide: epochs end within a step
MOST_SECONDS_BETWEEN_KILLS = 12.0
RESUMABLE = (75, 1, -9)  # stopped in order, ended by what was killed, killed itself

KINDS = {
    "wutong": "driver",
    "light_wutong": "driver",
    "gcs_server": "Ray's head",
    "raylet/raylet": "raylet",
    "RolloutWorker": "rollout worker",
    "PolicyRank": "trainer rank",
    "forkserver": "reward process",
    "rewards": "reward process",
    "reaper": "reaper",
    "ray::": "Ray worker",
    "/ray/": "Ray's agents and monitors",
}


@dataclass(slots=True)
class Soak:
    """What was done to the run, and how it took it. `kills`: what was killed, in order."""

    folder: Path
    kills: list[str] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)

    @property
    def ordinals(self) -> Counter[int]:
        """How many samples of each prompt were trained on."""
        files = sorted((self.folder / "run" / "trajectories").glob("*.parquet"))
        return Counter(o for file in files for o in read_trajectories(file).column("ordinal").to_pylist())

    @property
    def steps(self) -> list[int]:
        """The steps in the log."""
        lines = (self.folder / "run" / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["step"] for line in lines]


def make_soaked_run(folder: Path, num_steps: int) -> None:
    """A recipe whose steps take a while, and whose parts may be lost as often as it takes."""
    make_run(
        folder,
        num_prompts=NUM_PROMPTS,
        rule="import time\n\ndef parity(item):\n    time.sleep(0.2)\n    return len(item.response) % 2\n",
        num_steps=num_steps,
        trainer={"max_restarts": 100},
        rollout={"num_workers": 2, "max_restarts": 100},
        checkpoint={"keep_last": 2},
    )


# Of a reward's process, before its first answer and in it.
KILLED_AT_ITS_TRIAL = ("rewards did not start: exit status -9", "its process was killed by SIGKILL")


def soak(folder: Path, *, num_kills: int, seed: int, wutong: Sequence[str] = WUTONG, seconds: float = 1800) -> Soak:
    """The run of `make_soaked_run`, killed at `num_kills` times and then let finish."""
    dice = random.Random(seed)
    done = Soak(folder)
    deadline = time.monotonic() + seconds
    for start in _starts(folder, wutong, done):
        while len(done.kills) < num_kills and _lives_on(start, dice.uniform(0, MOST_SECONDS_BETWEEN_KILLS)):
            kind, victim = _victim(start, dice)
            with suppress(psutil.NoSuchProcess):
                victim.kill()
                done.kills.append(kind)
        start.process.wait(timeout=max(1.0, deadline - time.monotonic()))
        done.codes.append(start.process.returncode)
        # A reward's process that is killed while it is tried out looks like one that its author's code killed.
        is_tried_out = any(words in start.stderr for words in KILLED_AT_ITS_TRIAL)
        assert done.codes[-1] in (0, *RESUMABLE) or is_tried_out, f"{done.kills}: {start.stderr}"
        assert done.codes[-1] == 0 or done.kills, f"it ended by itself: {start.stderr}"
    return done


def _starts(folder: Path, wutong: Sequence[str], done: Soak) -> Iterator[Start]:
    """Begun once, and resumed until it has finished."""
    yield Start(folder, wutong=wutong)
    while done.codes[-1] != 0:
        is_begun = (folder / "run" / "metrics.jsonl").exists()
        start = Start(folder, *(["--resume"] if is_begun else []), wutong=wutong)
        try:
            yield start
        finally:
            start.process.kill()


def _victim(start: Start, dice: random.Random) -> tuple[str, psutil.Process]:
    """A process of a random kind: by number alone, it would nearly always be one of Ray's own."""
    kinds = defaultdict(list)
    for process in sorted(start.processes(), key=lambda process: process.pid):
        kinds[kind_of(described(process))].append(process)
    kind = dice.choice(sorted(kinds))
    return kind, dice.choice(kinds[kind])


def _lives_on(start: Start, seconds: float) -> bool:
    """Whether the run still goes on after so long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if start.process.poll() is not None:
            return False
        time.sleep(0.02)
    return start.process.poll() is None


def kind_of(command: str) -> str:
    """What a process is, by its command line."""
    return next((kind for mark, kind in KINDS.items() if mark in command), command[:40])
