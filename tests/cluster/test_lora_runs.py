"""Whole runs with adapters: SFT, and reinforcement learning by both ways of the weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from cluster.launch import launch
from cluster.outcome import Outcome
from tests.cluster.tiny_recipes import DATA, recipe

pytestmark = pytest.mark.usefixtures("cluster")

LORA = {"rank": 4, "alpha": 16}
ALGORITHM = {"name": "grpo", "kl_coef": 0.01}
SAMPLING = {"prompts_per_step": 4, "group_size": 2, "sampling": {"max_response_tokens": 16}}


@pytest.fixture(scope="module")
def sft(tmp_path_factory: pytest.TempPathFactory, cluster: None) -> Outcome:
    """A new model, then adapters that imitate."""
    folder = tmp_path_factory.mktemp("lora")
    pretrain = launch(recipe("pretrain", folder))
    return launch(recipe("sft", folder, model={"path": str(pretrain.export), "lora": LORA}))


def test_an_sft_run_moves_adapted_weights_alone(sft: Outcome) -> None:
    assert sft.export is not None
    before = AutoModelForCausalLM.from_pretrained(sft.folder.parent / "pretrain" / "export").state_dict()
    after = AutoModelForCausalLM.from_pretrained(sft.export).state_dict()
    moved = {name.split(".")[-2] for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.mark.parametrize("sync", ["merged", "adapter"])
def test_engine_and_trainer_agree_under_each_way_of_the_weights(sft: Outcome, sync: str) -> None:
    assert sft.export is not None
    run = recipe(
        "rl",
        sft.folder.parent,
        name=f"rl-{sync}",
        model={"path": str(sft.export), "lora": LORA},
        data={**DATA, "max_prompt_tokens": 24},
        rollout={**SAMPLING, "lora_sync": sync},
        algorithm=ALGORITHM,
        optimizer={"learning_rate": 0.01},
        num_steps=3,
    )
    outcome = launch(run)
    assert outcome.is_finished and outcome.export is not None
    lines = steps_of(outcome.folder)
    assert all(line["mismatch/max_abs"] < 1e-3 for line in lines)
    assert lines[0]["policy/kl_ref"] == 0
    assert lines[-1]["policy/kl_ref"] > 0
    check_export(outcome.export, sft.export)


def steps_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()][1:]


def check_export(export: Path, base: Path) -> None:
    """The merged model, and its base with the adapter beside it, are one model."""
    merged = AutoModelForCausalLM.from_pretrained(export)
    twin = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(export / "adapter"))
    ids = torch.arange(10, 30)[None]
    torch.testing.assert_close(twin(ids).logits, merged(ids).logits, rtol=0, atol=1e-5)
    assert not torch.allclose(AutoModelForCausalLM.from_pretrained(base)(ids).logits, merged(ids).logits, atol=1e-4)
