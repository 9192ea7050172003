"""A folder with a recipe of stages that are stand-ins (stand_in_wutong.py), and what commands do in it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.starts import ROOT

STAND_IN = (sys.executable, "-m", "tests.cluster.stand_in_wutong")
TEXTS = {"train": "texts.jsonl"}


class Folder:
    """The current folder of the commands, with a recipe of three stages in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "texts.jsonl").write_text('{"text": "a"}\n')
        new = {"new": {"hidden_size": 8, "num_heads": 1, "num_kv_heads": 1}}
        stages = [
            {"name": "pretrain", "stage": "pretrain", "model": new, "data": TEXTS, "num_steps": 3},
            {"name": "sft", "stage": "sft", "model": {"path": "${pretrain.model}"}, "data": TEXTS, "num_steps": 3},
            {"name": "other", "stage": "sft", "model": {"path": "${pretrain.model}"}, "data": TEXTS, "num_steps": 3},
            {"name": "hand", "stage": "export", "run": "${sft.run}", "to": "handed"},
        ]
        (path / "run.yaml").write_text(yaml.safe_dump({"name": "all", "output_dir": "runs", "stages": stages}))

    def start(self, *arguments: str, recipe: str = "run.yaml") -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
        return subprocess.Popen(
            [*STAND_IN, "run", recipe, *arguments],
            cwd=self.path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, *arguments: str, recipe: str = "run.yaml") -> tuple[int, str, str]:
        """Exit code, output and errors."""
        process = self.start(*arguments, recipe=recipe)
        out, error = process.communicate(timeout=60)
        return process.returncode, out, error

    @property
    def begun(self) -> list[str]:
        """Each start of a stage so far: its name, and from which count on."""
        log = self.path / "log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [f"{name} {count}" for name, _, _, count in map(str.split, lines)]

    @property
    def records(self) -> dict[str, Any]:
        return json.loads((self.path / "runs" / "all" / "stages.json").read_text())

    def brake_in(self, stage: str, count: int) -> Callable[[], bool]:
        """Stand still once that stage has counted so far."""
        counted = self.path / "runs" / "all" / stage / "count"

        def is_braked() -> bool:
            if counted.exists() and int(counted.read_text() or 0) >= count:
                (self.path / "brake").touch()
                return True
            return False

        return is_braked

    def release(self) -> None:
        (self.path / "brake").unlink(missing_ok=True)


def wait(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def table(output: str) -> list[list[str]]:
    """The rows of the table, without their times."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines() if "│" in line]
    return [[cell for place, cell in enumerate(row) if place != 2] for row in rows]
