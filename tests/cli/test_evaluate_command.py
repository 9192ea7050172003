"""`wutong evaluate` on tiny models: the guide's command run once, and all that it says checked against its rows."""

import json
import re
import shlex
import subprocess
import sys
from collections import Counter
from itertools import combinations, groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experience.parquet import read_parquet
from metrics.paired import mcnemar
from rewards.contract import RewardInput
from tests.actors.tiny_policies import make_policy
from tests.actors.tiny_reward_models import make_reward_model, value_of

WUTONG = Path(sys.executable).with_name("wutong")
GUIDE = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
COMMANDS = re.findall(r"^wutong .*$", GUIDE, re.MULTILINE)
FIRST, SECOND, TASTE = "runs/grpo/export", "runs/sft/export", "runs/taste/export"
NUM_PROMPTS = {"easy.jsonl": 12, "hard.jsonl": 9}
NUM_SAMPLES = 8

# A random policy is right in no other sense. The column, which a made-up sample lacks, is there in real rows only.
RULES = """
def parity(item):
    return float(sum(map(ord, item.response)) % 2 == item.columns["parity"])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the guide's command was run."""
    folder = tmp_path_factory.mktemp("evaluate")
    for seed, model in enumerate((FIRST, SECOND)):
        make_policy(folder / model, seed=seed)
    make_reward_model(folder / TASTE)
    for name, count in NUM_PROMPTS.items():
        rows = [
            {"id": f"{name[0]}{row}", "prompt": f"row {row}", "answer": str(row), "parity": 0} for row in range(count)
        ]
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "rules.py").write_text(RULES)
    [command] = COMMANDS
    options = [
        "--max-response-tokens",
        "2",
        "--temperature",
        "0.5",
        "--reward",
        "rules.py:parity",
        "--marker",
        "raw",
        "--json",
    ]
    result = subprocess.run(
        [str(WUTONG), *shlex.split(command)[1:], *options], cwd=folder, capture_output=True, text=True, timeout=400
    )
    assert (result.returncode, result.stderr) == (0, "")
    (folder / "printed.json").write_text(result.stdout)
    return folder


@pytest.fixture(scope="module")
def document(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "evaluation" / "results.json").read_text())


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[dict[str, Any]]:
    return read_parquet(folder / "evaluation" / "answers.parquet").to_pylist()


def by_prompt(rows: list[dict[str, Any]], model: str, data: str) -> list[list[dict[str, Any]]]:
    """The sampled responses to each prompt."""
    found = [row for row in rows if (row["model"], row["data"], row["kind"]) == (model, data, "sampled")]
    return [list(group) for _, group in groupby(found, key=lambda row: row["prompt_id"])]


def test_what_is_printed_is_what_is_written(folder: Path, document: dict[str, Any]) -> None:
    assert json.loads((folder / "printed.json").read_text()) == document
    assert [model["path"] for model in document["models"]] == [FIRST, SECOND]
    assert document["models"][0]["weights"] != document["models"][1]["weights"]


def test_every_response_is_a_row(rows: list[dict[str, Any]]) -> None:
    counts = Counter((row["model"], row["data"], row["kind"]) for row in rows)
    assert counts == {
        (model, data, kind): count * (NUM_SAMPLES if kind == "sampled" else 1)
        for model in (FIRST, SECOND)
        for data, count in NUM_PROMPTS.items()
        for kind in ("greedy", "sampled", "beam")
    }
    assert {row["prompt_id"] for row in rows} == {
        f"{d[0]}{row}" for d, count in NUM_PROMPTS.items() for row in range(count)
    }
    assert all(row["is_right"] == (sum(map(ord, row["response"])) % 2 == 0) for row in rows)
    assert len({row["is_right"] for row in rows}) == 2


def test_every_number_is_there_within_its_interval(document: dict[str, Any]) -> None:
    by_k = [f"{name}{k}" for name in ("pass@", "maj@", "best-of-") for k in (2, 4, 8)]
    names = {
        "greedy accuracy",
        "greedy score",
        "beam accuracy",
        "beam score",
        "sampled accuracy",
        "sampled score",
        "pass@1",
        *by_k,
    }
    names |= {f"best-of-{k} score" for k in (2, 4, 8)}
    for model in document["models"]:
        for numbers in (*(data["numbers"] for data in model["data"].values()), model["mean"]):
            assert set(numbers) == names
            assert all(one["low"] - 1e-9 <= one["value"] <= one["high"] + 1e-9 for one in numbers.values())


@pytest.mark.parametrize("data", NUM_PROMPTS)
def test_the_numbers_follow_from_the_rows(data: str, document: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Every subset of 4 responses, drawn, voted on and picked from by hand."""
    slow: dict[str, list[float]] = {"pass@4": [], "maj@4": [], "best-of-4": [], "best-of-4 score": []}
    for responses in by_prompt(rows, FIRST, data):
        right_of = {
            vote: np.mean([row["is_right"] for row in responses if row["vote"] == vote])
            for vote in {row["vote"] for row in responses} - {None}
        }
        for four in combinations(responses, 4):
            slow["pass@4"].append(any(row["is_right"] for row in four))
            votes = Counter(row["vote"] for row in four if row["vote"] is not None)
            won = [right_of[vote] for vote, count in votes.items() if count == max(votes.values())]
            slow["maj@4"].append(float(np.mean(won)) if won else 0.0)
            best = max(row["score"] for row in four)
            slow["best-of-4"].append(np.mean([row["is_right"] for row in four if row["score"] == best]))
            slow["best-of-4 score"].append(best)
    numbers = document["models"][0]["data"][data]["numbers"]
    assert len({numbers[name]["value"] for name in ("sampled accuracy", "pass@4", "maj@4", "best-of-4")}) == 4
    assert {name: numbers[name]["value"] for name in slow} == pytest.approx({n: np.mean(v) for n, v in slow.items()})


def test_the_mean_is_that_of_the_sets(document: dict[str, Any]) -> None:
    model = document["models"][0]
    for name, estimate in model["mean"].items():
        parts = [data["numbers"][name]["value"] for data in model["data"].values()]
        assert estimate["value"] == pytest.approx(np.mean(parts))


def test_the_scores_are_the_reward_model_s(folder: Path, rows: list[dict[str, Any]]) -> None:
    for row in rows[:: len(rows) // 5]:
        question = [{"role": "user", "content": f"row {row['prompt_id'][1:]}"}]
        item = RewardInput(prompt=row["prompt"], response=row["response"], answer=None, messages=question)
        assert row["score"] == pytest.approx(value_of(folder / TASTE, item), abs=1e-3)


def test_the_models_are_compared_prompt_by_prompt(document: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    right = {(row["model"], row["prompt_id"]): row["is_right"] for row in rows if row["kind"] == "greedy"}
    ids = {row["prompt_id"] for row in rows}
    only_first = sum(right[FIRST, id_] and not right[SECOND, id_] for id_ in ids)
    only_second = sum(right[SECOND, id_] and not right[FIRST, id_] for id_ in ids)
    found = document["comparison"]["all"]
    assert (found["only_first_right"], found["only_second_right"]) == (only_first, only_second)
    assert found["p_value"] == pytest.approx(mcnemar(only_first, only_second))
    means = [model["mean"] for model in document["models"]]
    for name, difference in found["differences"].items():
        assert difference["value"] == pytest.approx(means[0][name]["value"] - means[1][name]["value"])
        assert difference["low"] - 1e-9 <= difference["value"] <= difference["high"] + 1e-9
