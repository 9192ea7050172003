"""The recipe instructgpt.yaml as it is, but for its sizes: every stage on the real engines."""

import json
import subprocess
from pathlib import Path

import pytest

from experience.parquet import read_parquet
from tests.cluster.starts import ROOT, WUTONG

pytestmark = pytest.mark.slow
RULE = f"{ROOT}/tests/cluster/tiny_rules.py:letters"  # what even random weights say differs in it
RL = (
    "num_steps=2", "algorithm.critic_warmup_steps=1", "rollout.prompts_per_step=4", "rollout.group_size=2",
    "evaluation.num_prompts=4",
)  # fmt: skip
SIZES = (
    "pretrain.num_steps=2", "sft.num_steps=2", "preferences.num_prompts=8", "preferences.num_eval_prompts=4",
    "preferences.samples_per_prompt=4", f"preferences.rewards=[{{use: {RULE}}}]", "reward_model.num_steps=2",
    "reward_model.comparisons_per_step=4", *(f"{stage}.{size}" for stage in ("ppo", "free", "guarded") for size in RL),
    "free.guard.num_prompts=16", "guarded.guard.num_prompts=16",
    "evaluate.num_prompts=4", "evaluate.num_samples=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All stages finished."""
    folder = tmp_path_factory.mktemp("instructgpt")
    command = [*WUTONG, "run", "configs/recipes/instructgpt.yaml", *SIZES, f"output_dir={folder}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "instructgpt"


def test_the_reward_model_learns_from_comparisons_of_what_the_sft_model_says(folder: Path) -> None:
    rows = read_parquet(folder / "preferences" / "train.parquet").to_pylist()
    assert rows and all(len(set(row["responses"])) >= 2 for row in rows)
    assert (folder / "reward_model" / "export" / "reward_normalization.json").exists()


@pytest.mark.parametrize("stage", ["ppo", "free", "guarded"])
def test_ppo_learns_from_the_proxy_and_shows_the_gold(folder: Path, stage: str) -> None:
    lines = [json.loads(line) for line in (folder / stage / "metrics.jsonl").read_text().splitlines()]
    for line in lines[1:]:
        assert line["reward/mean"] == pytest.approx(line["reward/proxy"])
        assert 0 <= line["reward/gold"] <= 1
    for name in ("policy/kl_ref", "mixed/loss"):  # what holds the policy near its start
        assert (name in lines[-1]) == (stage == "ppo"), name
    assert ("guard/gold" in lines[-1]) == (stage != "ppo")


def test_the_policy_is_compared_with_its_sft_model(folder: Path) -> None:
    document = json.loads((folder / "evaluate" / "results.json").read_text())
    assert [model["path"] for model in document["models"]] == [
        str(folder / stage / "export") for stage in ("ppo", "sft")
    ]
    rates = document["comparison"]["all"]["win_rates"]
    assert set(rates) == {"greedy win rate", "sampled win rate"}
    assert all(0 <= rate["low"] <= rate["value"] <= rate["high"] <= 1 for rate in rates.values())
