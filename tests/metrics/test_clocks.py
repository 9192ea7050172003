"""Durations are measured by clocks that nobody sets back."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOT_OURS = {"tests", "docker", "benchmarks", "docs", "configs"}
FILES = sorted(path for path in ROOT.glob("*/*.py") if path.parent.name not in NOT_OURS)
# Where the time of day itself is meant.
ALLOWED = {
    "actors/engine.py": "vLLM asks for it",
    "metrics/jsonl_sink.py": "when a step was logged",
    "metrics/tensorboard_sink.py": "when a step was logged",
    "metrics/timeline.py": "where a trace lies among those of others",
}


def wall_clock_lines(source: str) -> list[int]:
    """Lines that call `time.time`."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and node.attr in ("time", "time_ns") and ast.unparse(node.value) == "time"
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_duration_hangs_on_the_time_of_day(path: Path) -> None:
    found = wall_clock_lines(path.read_text())
    assert bool(found) == (str(path.relative_to(ROOT)) in ALLOWED), f"lines {found}: use time.monotonic()"


def test_the_time_of_day_is_found() -> None:
    assert wall_clock_lines("import time\nbegun = time.time()") == [2]
