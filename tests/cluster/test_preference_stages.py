"""A reward model and a DPO policy from one tiny policy, on the real engine."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from cluster.launch import launch
from cluster.outcome import Outcome
from experience.dataset import load_dataset
from rewards.contract import RewardInput
from tests.cluster.tiny_recipes import DATA, new_model, recipe
from trainers.scoring_model import ScoringModel

pytestmark = pytest.mark.usefixtures("cluster")
TRAINED = {
    "optimizer": {"learning_rate": 1e-2},
    "num_steps": 4,
    "eval_every_steps": 2,
    "checkpoint": {"every_steps": 2},
}
RUNS: dict[str, dict[str, Any]] = {
    "reward_model": {
        **TRAINED,
        "normalize": "mean_and_deviation",
        "trainer": {"num_ranks": 2, "zero_stage": 3, "tokens_per_micro_batch": 256},
    },
    "dpo": TRAINED,
}


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, cluster: None) -> tuple[Path, dict[str, Outcome]]:
    """A new policy, a reward model of its body under ZeRO-3, and DPO from it."""
    folder = tmp_path_factory.mktemp("preferences")
    launch(recipe("sft", folder, model=new_model()))
    return folder, {stage: launch(recipe(stage, folder, **changes)) for stage, changes in RUNS.items()}


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("stage", ["reward_model", "dpo"])
def test_held_out_accuracy_comes_with_its_interval(chain: tuple[Path, dict[str, Outcome]], stage: str) -> None:
    lines = metrics(chain[0] / stage)
    assert [("eval/preference_accuracy" in line) for line in lines] == [False, True, False, True]
    last = lines[-1]
    low, high = last["eval/preference_accuracy_low"], last["eval/preference_accuracy_high"]
    assert 0 <= low <= last["eval/preference_accuracy"] <= high <= 1
    for name in ("loss", "brier", "calibration_error", "chosen_reward", "rejected_reward", "reward_difference"):
        assert np.isfinite(last[f"preference/{name}"]) and np.isfinite(last[f"eval/preference_{name}"])


def test_the_first_step_of_dpo_has_no_preference_yet(chain: tuple[Path, dict[str, Outcome]]) -> None:
    first = metrics(chain[0] / "dpo")[0]
    assert first["preference/loss"] == pytest.approx(np.log(2), abs=1e-4)
    assert first["preference/drift"] == pytest.approx(0, abs=1e-5)


def test_dpo_leaves_its_reference_and_a_reward_model_its_policy(chain: tuple[Path, dict[str, Outcome]]) -> None:
    assert metrics(chain[0] / "dpo")[-1]["preference/drift"] > 1e-3
    before = AutoModelForCausalLM.from_pretrained(chain[0] / "sft" / "export").model.norm.weight
    after = AutoModelForSequenceClassification.from_pretrained(chain[1]["reward_model"].export).model.norm.weight
    assert not torch.equal(before, after)


def test_the_exported_rewards_of_held_out_responses_have_mean_0_and_deviation_1(
    chain: tuple[Path, dict[str, Outcome]],
) -> None:
    export = chain[1]["reward_model"].export
    assert export is not None
    (held_out,) = (chain[0] / "reward_model" / "data").glob("*-eval.parquet")
    items = [
        RewardInput(prompt=row["prompt"], response=response, answer=None)
        for row in load_dataset(str(held_out)).table.to_pylist()
        for response in row["responses"]
    ]
    values = [score.value for score in ScoringModel(str(export)).score_blocking(items) if score.value is not None]
    assert len(values) == len(items)
    assert (np.mean(values), np.std(values)) == pytest.approx((0, 1), abs=1e-3)


@pytest.mark.parametrize("stage", ["reward_model", "dpo"])
def test_a_resumed_run_ends_with_the_same_weights(chain: tuple[Path, dict[str, Outcome]], stage: str) -> None:
    """The second half once more, from the checkpoint in the middle."""
    again = f"{stage}-again"
    shutil.copytree(chain[0] / stage, chain[0] / again)
    for left in ("checkpoints/step_000004", "export"):
        shutil.rmtree(chain[0] / again / left)
    outcome = launch(recipe(stage, chain[0], name=again, **RUNS[stage]), resume=True)
    kind = AutoModelForSequenceClassification if stage == "reward_model" else AutoModelForCausalLM
    weights = [kind.from_pretrained(one.export).state_dict() for one in (chain[1][stage], outcome)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_recipes_that_cannot_work_are_refused_before_anything_starts(chain: tuple[Path, dict[str, Outcome]]) -> None:
    folder = chain[0]
    with pytest.raises(ValueError, match=r"set model\.path"):
        recipe("reward_model", folder, model=new_model())
    with pytest.raises(ValueError, match=r"tokens_per_micro_batch=64: the responses of one prompt have \d+ tokens"):
        launch(recipe("dpo", folder, name="narrow", trainer={"tokens_per_micro_batch": 64}))
    with pytest.raises(ValueError, match=r"neither columns 'chosen' and 'rejected' nor 'responses'"):
        launch(recipe("dpo", folder, name="columns", data=DATA))
