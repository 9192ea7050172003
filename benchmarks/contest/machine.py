"""The machine, the releases and the commit that a figure belongs to, in one line."""

import importlib.metadata
import os
import subprocess
import time
from pathlib import Path

import psutil

from benchmarks.contest.contestants import TRL_PYTHON

_TRL_VERSION = "import importlib.metadata; print(importlib.metadata.version('trl'))"


def machine() -> str:
    """Date, processor, cores, memory, releases, wutong's commit."""
    memory = psutil.virtual_memory().total / 2**30
    releases = [f"{name} {_version(name)}" for name in ("torch", "vllm", "ray", "deepspeed", "transformers")]
    return ", ".join(
        [
            time.strftime("%Y-%m-%d"),
            f"{processor(Path('/proc/cpuinfo'))}, {os.cpu_count()} cores, {memory:.0f} GiB",
            *releases,
            f"trl {_printed([str(TRL_PYTHON), '-c', _TRL_VERSION])}",
            f"wutong {_printed(['git', 'describe', '--always', '--dirty'])}",
        ]
    )


def processor(path: Path) -> str:
    """The model's name as Linux has it."""
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown processor"


def _version(name: str) -> str:
    for distribution in (name, f"{name}-cpu"):
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "absent"


def _printed(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "absent"
