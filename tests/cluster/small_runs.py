"""A small run of reinforcement learning in a file, to be started by `wutong train` (tests/cluster/starts.py)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.actors.tiny_policies import make_policy

PROMPTS_PER_STEP, GROUP_SIZE = 4, 2

# Scoring waits while the file `brake` exists, and says so: what a run is doing when it is struck is no chance. Where a
# number stands there, the prompts trained on wait from that one on, and no others.
BRAKED_RULE = """
import time
from pathlib import Path

def is_braked(item, brake):
    try:
        first = brake.read_text()
    except FileNotFoundError:
        return False
    ordinal = int(item.id.partition(".")[0] or 0)  # a trial call has none
    return not first or (ordinal >= int(first) and item.columns["use"] == "train")

def parity(item, folder):
    while is_braked(item, Path(folder, "brake")):
        Path(folder, "braked").touch()
        time.sleep(0.05)
    return len(item.response) % 2
"""


def make_run(
    folder: Path, *, num_prompts: int = 50, num_held_out: int = 0, rule: str = BRAKED_RULE, **changes: Any
) -> None:
    """`run.yaml` in `folder`, with its model, its data and the rule `parity`. `changes` are merged over the recipe."""
    make_policy(folder / "model")
    rows = [
        {"prompt": f"{number} + 1 =", "answer": str(number + 1), "use": "train" if number < num_prompts else "eval"}
        for number in range(num_prompts + num_held_out)
    ]
    data = {"train": write_rows(folder / "prompts.jsonl", rows[:num_prompts]), "max_prompt_tokens": 24}
    if num_held_out:
        data["eval"] = write_rows(folder / "held_out.jsonl", rows[num_prompts:])
    (folder / "rules.py").write_text(rule)
    reward = {"use": f"{folder}/rules.py:parity", "timeout_seconds": 120}
    recipe = {
        "stage": "rl",
        "name": "run",
        "output_dir": str(folder),
        "num_steps": 1000,
        "model": {"path": str(folder / "model")},
        "data": data,
        "trainer": {"num_ranks": 2, "tokens_per_micro_batch": 512},
        "rollout": {
            "prompts_per_step": PROMPTS_PER_STEP,
            "group_size": GROUP_SIZE,
            "sampling": {"max_response_tokens": 16},
        },
        "rewards": [{**reward, "args": {"folder": str(folder)}} if "folder" in rule else reward],
        "algorithm": {"name": "grpo", "kl_coef": 0},
        "checkpoint": {"every_steps": 1},
        "logging": {"tensorboard": False},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(_merged(recipe, changes)))


def write_rows(path: Path, rows: list[dict[str, str]]) -> str:
    """One JSON line a row; the path as recipes have it."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def _merged(recipe: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(recipe)
    for key, value in changes.items():
        is_section = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
        found[key] = _merged(found[key], value) if is_section else value
    return found
