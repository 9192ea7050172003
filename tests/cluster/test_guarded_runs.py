"""Runs whose proxy rises while gold peaks at step 4: they end, or go back, with the weights of that step."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from experience.store import read_trajectories
from tests.cluster.small_runs import make_run
from tests.cluster.starts import LIGHT_WUTONG, Start
from trainers import checkpoint

pytestmark = pytest.mark.slow

# The step is told by the record: nothing that the light engine samples depends on the weights.
RULES = """
import json
from pathlib import Path

def step_of(folder):
    path = Path(folder, "run", "metrics.jsonl")
    lines = path.read_text().splitlines() if path.exists() else []
    return json.loads(lines[-1])["step"] + 1 if lines else 0

def parity(item, folder):
    return len(item.response) % 2 + 0.1 * step_of(folder)

def gold(item, folder):
    return len(item.response) % 3 - 0.1 * abs(step_of(folder) - 4)
"""


def prepare(folder: Path, action: str, num_steps: int = 12, **changes: Any) -> None:
    gold = {"use": f"{folder}/rules.py:gold", "args": {"folder": str(folder)}}
    make_run(
        folder,
        num_held_out=16,
        rule=RULES,
        num_steps=num_steps,
        guard={"gold": [gold], "every_steps": 2, "num_prompts": 16, "patience": 2, "action": action},
        optimizer={"learning_rate": 1e-3},
        checkpoint={"every_steps": 2, "keep_best": 1, "keep_last": 20},
        **changes,
    )


def run(folder: Path, *arguments: str) -> Start:
    start = Start(folder, *arguments, wutong=LIGHT_WUTONG)
    start.process.wait(timeout=300)
    assert start.process.returncode == 0, start.stderr
    return start


def logged(folder: Path) -> dict[int, dict[str, Any]]:
    lines = map(json.loads, (folder / "run" / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line for line in lines}


def policy_at(folder: Path, step: int) -> dict[str, torch.Tensor]:
    saved = checkpoint.folder_of(folder / "run" / "checkpoints", step)
    (path,) = (saved / "policy").rglob("mp_rank_00_model_states.pt")
    return torch.load(path, weights_only=False)["module"]  # written by the run that is tested


def is_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_stopped_and_resumed_run_ends_with_the_best_weights(tmp_path: Path) -> None:
    prepare(tmp_path, "stop")
    first = run(tmp_path, "num_steps=6")
    assert "guard: the run ends here" not in first.stderr
    last = load_file(tmp_path / "run" / "export" / "model.safetensors")
    resumed = run(tmp_path, "--resume")
    assert "guard: the run ends here; step 4 is exported (the best checkpoint)" in resumed.stderr
    steps = logged(tmp_path)
    assert list(steps) == list(range(9))
    looks = {step: line for step, line in steps.items() if "guard/gold" in line}
    assert list(looks) == [0, 2, 4, 6, 8]
    assert [line["guard/looks_below"] for line in looks.values()] == [0, 0, 0, 1, 2]
    assert [line["guard/best_step"] for line in looks.values()] == [0, 2, 4, 4, 4]
    assert [line["guard/actions"] for line in looks.values()] == [0, 0, 0, 0, 1]
    assert all(line["guard/kl_low"] <= line["guard/kl"] <= line["guard/kl_high"] for line in looks.values())
    exported = load_file(tmp_path / "run" / "export" / "model.safetensors")
    best = policy_at(tmp_path, 4)
    names = {name.partition(".")[2]: name for name in best}
    shared = exported.keys() & names.keys()
    assert shared
    assert all(torch.equal(exported[name], best[names[name]]) for name in shared)
    assert not is_equal(exported, last)

    again = run(tmp_path, "--resume")  # a run that is over stays over, and exports the same
    assert list(logged(tmp_path)) == list(range(9))
    assert is_equal(load_file(tmp_path / "run" / "export" / "model.safetensors"), exported), again.stderr


def test_rolling_back_goes_on_with_the_best_weights_and_the_next_prompts(tmp_path: Path) -> None:
    prepare(tmp_path, "roll_back", num_steps=9)
    said = run(tmp_path).stderr
    assert "guard: back to step_000004" in said
    assert is_equal(policy_at(tmp_path, 8), policy_at(tmp_path, 4))
    assert not is_equal(policy_at(tmp_path, 6), policy_at(tmp_path, 4))
    assert not is_equal(policy_at(tmp_path, 9), policy_at(tmp_path, 8))
    state = checkpoint.read_state(checkpoint.folder_of(tmp_path / "run" / "checkpoints", 8))
    assert "guard/gold" not in state["held_out"]
    ordinals = [
        ordinal
        for step in range(1, 10)
        for ordinal in set(
            read_trajectories(tmp_path / "run" / "trajectories" / f"step_{step:06d}.parquet")
            .column("ordinal")
            .to_pylist()
        )
    ]
    assert sorted(ordinals) == list(range(36))


def test_lowering_the_kl_target_doubles_a_fixed_coefficient(tmp_path: Path) -> None:
    prepare(tmp_path, "lower_kl", algorithm={"name": "grpo", "kl_coef": 0.01}, num_steps=10)
    assert "guard: algorithm.kl_coef goes from 0.01 to 0.02" in run(tmp_path).stderr
    coefs = {step: line["policy/kl_coef"] for step, line in logged(tmp_path).items() if step}
    assert coefs == {step: 0.01 if step <= 8 else 0.02 for step in range(1, 11)}


def test_a_warning_ends_nothing_and_gold_without_a_verdict_stops_the_run(tmp_path: Path) -> None:
    prepare(tmp_path, "warn", num_steps=8)
    assert "guard: step 8: over-optimised for 2 looks" in run(tmp_path).stderr
    recipe = yaml.safe_load((tmp_path / "run.yaml").read_text())
    (tmp_path / "rules.py").write_text(RULES.replace("len(item.response) % 3 -", "1 / 0 +"))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**recipe, "name": "other"}))
    broken = Start(tmp_path, wutong=LIGHT_WUTONG)
    assert broken.process.wait(timeout=120) == 2
    assert "guard.gold: rewards: gold: a trial call" in broken.stderr
