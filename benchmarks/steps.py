"""What a GRPO step costs: wutong, synchronous and asynchronous, against the floor, interleaved on this machine.

    python -m benchmarks.steps RECIPE [key=value ...] [--rounds 3] [--steps 12] [--out steps.json]

Each round starts every contestant anew. Its first steps are left out of the medians; CPU seconds and memory (PSS)
are those of its whole process tree.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import psutil

WARM_STEPS = 2
LOOK_SECONDS = 0.5
PARTS = ("generate", "score", "logprobs", "train", "sync", "other")
WUTONG = str(Path(sys.executable).with_name("wutong"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run of one contestant: medians over its steps. `first_step`: seconds from start to its end."""

    contestant: str
    seconds: float
    length: float  # response tokens of a sample
    parts: dict[str, float]
    cpu_seconds: float
    peak_gib: float
    first_step: float
    rewards: list[float]


class Tree:
    """A process and all that come from it: their CPU seconds, and the peak of their memory."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._cpu: dict[int, float] = {}
        self.peak = 0

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


def run(contestant: str, recipe: str, overrides: Sequence[str], num_steps: int) -> Measured:
    """Start it, wait, and read what it wrote."""
    with tempfile.TemporaryDirectory() as folder:
        settings = [*overrides, f"num_steps={num_steps}", f"output_dir={folder}", "name=run"]
        if contestant == "floor":
            command = [sys.executable, "-m", "benchmarks.floor", recipe, *settings]
        else:
            command = [WUTONG, "train", recipe, *settings, "evaluation.num_prompts=1", "logging.tensorboard=false"]
        if contestant == "asynchronous":
            command += ["rollout.max_staleness=1", "algorithm.correction=sequence_tis"]
        out = Path(folder) / "floor.jsonl"
        metrics = out if contestant == "floor" else Path(folder) / "run" / "metrics.jsonl"
        began = time.perf_counter()
        with out.open("w") as lines, (Path(folder) / "stderr").open("w") as errors:
            process = subprocess.Popen(command, stdout=lines, stderr=errors)
        tree, first_step = Tree(process.pid), 0.0
        while process.poll() is None:
            tree.look()
            if not first_step and _steps(metrics):
                first_step = time.perf_counter() - began
            time.sleep(LOOK_SECONDS)
        if process.returncode:
            raise SystemExit(
                f"{contestant}: exit code {process.returncode}: {(Path(folder) / 'stderr').read_text()[-2000:]}"
            )
        steps = _steps(metrics)
    return _measured(contestant, steps, tree, first_step)


def _steps(path: Path) -> list[dict[str, float]]:
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("\n")]
    return [step for step in found if step["step"]]  # 0: what was measured before the first one


def _measured(contestant: str, steps: Sequence[dict[str, float]], tree: Tree, first_step: float) -> Measured:
    seconds, prefix = ("seconds", "") if contestant == "floor" else ("time/step", "time/")
    counted = [step for step in steps if step["step"] > WARM_STEPS]
    middle = median(step[seconds] for step in counted)
    return Measured(
        contestant=contestant,
        seconds=middle,
        length=median(step["length" if contestant == "floor" else "response/length_mean"] for step in counted),
        parts={part: median(step.get(f"{prefix}{part}", 0.0) for step in counted) for part in PARTS},
        cpu_seconds=tree.cpu_seconds / len(steps),
        peak_gib=tree.peak / 2**30,
        first_step=first_step,
        rewards=[step["reward" if contestant == "floor" else "reward/mean"] for step in steps],
    )


def table(found: Sequence[Measured]) -> str:
    """Medians over the rounds, and the ratio to the floor's step."""
    names = list(dict.fromkeys(each.contestant for each in found))
    floors = [each.seconds for each in found if each.contestant == "floor"]
    lines = [f"| | s/step | of the floor | {' | '.join(PARTS)} | CPU s/step | GiB | s to first step |"]
    lines.append("|---" * (len(PARTS) + 6) + "|")
    for name in names:
        own = [each for each in found if each.contestant == name]
        seconds = median(each.seconds for each in own)
        ratio = f"{seconds / median(floors):.2f}" if floors else "-"
        parts = " | ".join(f"{median(each.parts[part] for each in own):.2f}" for part in PARTS)
        rest = [
            median(values) for values in zip(*((e.cpu_seconds, e.peak_gib, e.first_step) for e in own), strict=True)
        ]
        lines.append(f"| {name} | {seconds:.2f} | {ratio} | {parts} | {rest[0]:.1f} | {rest[1]:.2f} | {rest[2]:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """The rounds, interleaved, and a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path("steps.json"))
    parser.add_argument("--contestants", nargs="+", default=["floor", "synchronous", "asynchronous"])
    asked = parser.parse_args()
    found: list[Measured] = []
    for _ in range(asked.rounds):
        for contestant in asked.contestants:
            found.append(run(contestant, asked.recipe, asked.overrides, asked.steps))
            print(f"{contestant}: {found[-1].seconds:.2f} s/step", flush=True)
            asked.out.write_text(json.dumps([asdict(each) for each in found], indent=1))
    print(f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores\n{table(found)}")


if __name__ == "__main__":
    main()
