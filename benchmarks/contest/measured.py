"""One run of one contestant: started anew, watched, and read."""

import contextlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from statistics import median

import psutil

from benchmarks.contest.contestants import Start, start_of

WARM_STEPS = 2
PARTS = ("generate", "score", "logprobs", "train", "sync", "other")
_LOOK_SECONDS = 1.0  # reading the memory of gigabytes takes tens of milliseconds
# Ray's workers step back where others want the cores; here they don't, so that a busy machine slows all alike.
_ENVIRONMENT = {"RAY_worker_niceness": "0"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Medians over the steps of one run after its first ones; `round` counts from 0 for each contestant of a case."""

    case: str
    contestant: str
    round: int
    seconds: float
    tokens_per_second: float  # response tokens over the whole step
    length: float  # response tokens of a sample
    parts: dict[str, float]
    cpu_seconds: float  # of a step; the start, with the first step, is left out
    peak_gib: float
    first_step: float  # seconds from the start to the end of the first step
    rewards: list[float]  # of each step
    elapsed: list[float]  # seconds from the start to the end of each step
    machine: str


class Tree:
    """A process and all that come from it: their CPU seconds, and the peak of their memory (PSS)."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._cpu: dict[int, float] = {}
        self.peak = 0  # bytes

    def look(self) -> None:
        """Once."""
        total = 0
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in [self._root, *self._root.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    times = process.cpu_times()
                    self._cpu[process.pid] = times.user + times.system
                    total += process.memory_full_info().pss
        self.peak = max(self.peak, total)

    @property
    def cpu_seconds(self) -> float:
        """Up to the last look at each process."""
        return sum(self._cpu.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """What a run wrote by step, under our names, and what its processes took."""

    lines: list[dict[str, float]]
    cpu_seconds: float  # of a step after the first ones that were seen
    peak_bytes: int
    first_step: float


def watch(contestant: str, recipe: str, settings: Sequence[str]) -> Steps:
    """Start it and wait for its end; a SystemExit with its last words where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        start = start_of(contestant, recipe, settings, Path(folder))
        printed, complaints = Path(folder) / "stdout", Path(folder) / "stderr"
        began = time.perf_counter()
        with printed.open("w") as out, complaints.open("w") as errors:
            process = subprocess.Popen(start.command, stdout=out, stderr=errors, env=os.environ | _ENVIRONMENT)
        tree = Tree(process.pid)
        first_step, num_seen, cpu_before = 0.0, 0, 0.0
        while process.poll() is None:
            tree.look()
            if not num_seen and (num_seen := len(read(start))):
                first_step, cpu_before = time.perf_counter() - began, tree.cpu_seconds
            time.sleep(_LOOK_SECONDS)
        if process.returncode:
            raise SystemExit(f"{contestant}: exit code {process.returncode}: {complaints.read_text()[-2000:]}")
        lines = read(start)
        return Steps(
            lines=lines,
            cpu_seconds=(tree.cpu_seconds - cpu_before) / max(1, len(lines) - num_seen),
            peak_bytes=tree.peak,
            first_step=first_step,
        )


def read(start: Start) -> list[dict[str, float]]:
    """The steps that were written in full; what was measured before the first one is left out."""
    lines = start.metrics.read_text().splitlines(keepends=True) if start.metrics.exists() else []
    found = [json.loads(line) for line in lines if line.startswith('{"') and line.endswith("\n")]
    return [{ours: step.get(theirs, 0.0) for ours, theirs in start.keys.items()} for step in found if step["step"]]


def summary(steps: Steps, named: dict[str, str | int], num_samples: int) -> Measured:
    """Medians over the steps after the first ones. `num_samples`: of a step."""
    counted = steps.lines[WARM_STEPS:]
    ends = accumulate((step["seconds"] for step in steps.lines[1:]), initial=steps.first_step)
    return Measured(
        **named,  # pyright: ignore[reportArgumentType]
        seconds=median(step["seconds"] for step in counted),
        tokens_per_second=median(step["length"] * num_samples / step["seconds"] for step in counted),
        length=median(step["length"] for step in counted),
        parts={part: median(step.get(part, 0.0) for step in counted) for part in PARTS},
        cpu_seconds=steps.cpu_seconds,
        peak_gib=steps.peak_bytes / 2**30,
        first_step=steps.first_step,
        rewards=[step["reward"] for step in steps.lines],
        elapsed=list(ends),
    )


def load(path: Path) -> list[Measured]:
    """What an earlier call measured; nothing where there is no such file."""
    return [Measured(**entry) for entry in json.loads(path.read_text())] if path.exists() else []


def save(path: Path, found: Sequence[Measured]) -> None:
    """As JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(each) for each in found], indent=1) + "\n")
