"""`wutong evaluate` on a tiny policy: one start of the engine, all its numbers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.actors.tiny_policies import make_policy

WUTONG = Path(sys.executable).with_name("wutong")
NUM_PROMPTS = 12

# A random policy is right in no other sense. The column, which a made-up sample lacks, is there in real rows only.
RULES = """
def parity(item):
    return float(len(item.response) % 2 == item.columns["parity"])
"""


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    folder = tmp_path_factory.mktemp("evaluate")
    model = make_policy(folder / "model")
    rows = [{"prompt": f"row {number}", "answer": str(number), "parity": 0} for number in range(NUM_PROMPTS)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "rules.py").write_text(RULES)
    options = ["--samples", "4", "--max-response-tokens", "8", "--reward", "rules.py:parity", "--json"]
    result = subprocess.run(
        [str(WUTONG), "evaluate", str(model), "prompts.jsonl", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (result.returncode, result.stderr) == (0, "")
    return json.loads(result.stdout)


def test_all_numbers_are_there(numbers: dict[str, float]) -> None:
    interval = ["greedy accuracy, low", "greedy accuracy, high"]
    assert list(numbers) == ["prompts", "greedy accuracy", *interval, "sampled accuracy", "pass@1", "pass@2", "pass@4"]
    assert numbers["prompts"] == NUM_PROMPTS


def test_the_interval_holds_the_accuracy(numbers: dict[str, float]) -> None:
    low, high = numbers["greedy accuracy, low"], numbers["greedy accuracy, high"]
    assert 0 <= low <= numbers["greedy accuracy"] <= high <= 1


def test_more_samples_solve_more_prompts(numbers: dict[str, float]) -> None:
    assert 0 < numbers["pass@1"] < numbers["pass@2"] < numbers["pass@4"] <= 1
    assert numbers["pass@1"] == pytest.approx(numbers["sampled accuracy"])
