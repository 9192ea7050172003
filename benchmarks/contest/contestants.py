"""Who contends in a GRPO step, how each is started, and where it writes what a step took."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contest.work import work_of
from configs.load import load_run
from configs.schema import RlRun

NAMES = ("floor", "synchronous", "asynchronous", "trl_vllm", "trl")
TRL_PYTHON = Path(".venv-bench/bin/python")
ASYNCHRONOUS = ("rollout.max_staleness=1", "algorithm.correction=sequence_tis", "rollout.recompute_kv=false")
_WUTONG = str(Path(sys.executable).with_name("wutong"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A command, and the file that gets a line of JSON for each step."""

    command: list[str]
    metrics: Path
    keys: dict[str, str]  # ours -> the contestant's


_PLAIN = {name: name for name in ("seconds", "length", "reward", "generate", "score", "train", "sync")}
_WUTONGS = {"seconds": "time/step", "length": "response/length_mean", "reward": "reward/mean"} | {
    part: f"time/{part}" for part in ("generate", "score", "logprobs", "train", "sync", "other")
}


def start_of(contestant: str, recipe: str, settings: Sequence[str], folder: Path) -> Start:
    """How to start it; what it needs besides is written into `folder`. An unknown name is a ValueError."""
    settings = [*settings, f"output_dir={folder}", "name=run"]
    printed = folder / "stdout"
    if contestant == "floor":
        command = [sys.executable, "-m", "benchmarks.floor", recipe, *settings]
        return Start(command=command, metrics=printed, keys=_PLAIN)
    if contestant in ("trl", "trl_vllm"):
        work = folder / "work.json"
        write_work(recipe, settings, work)
        command = [str(TRL_PYTHON), "benchmarks/trl_grpo.py", str(work)]
        return Start(command=command + ["--vllm"] * (contestant == "trl_vllm"), metrics=printed, keys=_PLAIN)
    if contestant in ("synchronous", "asynchronous"):
        command = [_WUTONG, "train", recipe, *settings, "evaluation.num_prompts=1", "logging.tensorboard=false"]
        command += ASYNCHRONOUS if contestant == "asynchronous" else ()
        return Start(command=command, metrics=folder / "run" / "metrics.jsonl", keys=_WUTONGS)
    raise ValueError(f"contestant {contestant!r}: unknown; choose from {', '.join(NAMES)}")


def write_work(recipe: str, settings: Sequence[str], path: Path) -> None:
    """For a contestant that can't read recipes."""
    run = load_run(recipe, settings)
    assert isinstance(run, RlRun)
    path.write_text(json.dumps(work_of(run)))
