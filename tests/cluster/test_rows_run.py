"""Rows of the algorithm table with parts of their own - critic, greedy response, moving reference - end to end."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from cluster.launch import launch
from cluster.replay import replay
from tests.cluster.tiny_recipes import DATA, TRAINER, recipe

pytestmark = pytest.mark.usefixtures("cluster")

MIX = {"data": DATA, "sequences_per_update": 4, "max_sequence_tokens": 32, "coef": 0.5}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, cluster: None) -> Path:
    """A model to start from; its SFT mixes pre-training text in."""
    folder = tmp_path_factory.mktemp("rows")
    launch(recipe("pretrain", folder))
    launch(recipe("sft", folder, mix=MIX))
    return folder


def run(folder: Path, name: str, **changes: Any) -> list[dict[str, Any]]:
    """The metrics of each step of a run of that name."""
    outcome = launch(recipe("rl", folder, name=name, **changes))
    assert outcome.is_finished
    lines = (folder / name / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines][1:]


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder / name / "export").state_dict()


def test_sft_reports_the_text_that_is_mixed_in(start: Path) -> None:
    last = json.loads((start / "sft" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["mixed/loss"] > 0 and last["supervised/loss"] > 0


def test_ppo_with_warm_up_and_mixed_in_text_goes_on_after_a_resume_as_if_nothing_had_been(start: Path) -> None:
    ppo = {
        "algorithm": {"name": "ppo", "critic_warmup_steps": 1, "mini_batches": 2, "epochs": 2, "kl_target": 0.01},
        "critic": {"optimizer": {"learning_rate": 1e-3}},
        "mix": MIX,
        "num_steps": 3,
        "checkpoint": {"every_steps": 2},
    }
    warm, second, third = run(start, "ppo", **ppo)
    assert "optimizer/grad_norm" not in warm and warm["critic/grad_norm"] > 0
    assert second["mixed/loss"] > 0 and second["value/explained_variance"] <= 1
    assert second["policy/kl_coef"] == 0.02 and third["policy/kl_coef"] != 0.02
    launch(recipe("rl", start, name="ppo-halves", **{**ppo, "num_steps": 2}))
    launch(recipe("rl", start, name="ppo-halves", **ppo), resume=True)
    whole, halves = weights(start, "ppo"), weights(start, "ppo-halves")
    assert all(torch.equal(whole[name], halves[name]) for name in whole)

    replayed = replay(start / "ppo", 3)
    assert {"policy/loss", "critic/grad_norm", "value/loss", "mixed/loss"} <= replayed.logged.keys()
    assert replayed.is_same_recipe and replayed.differences(0.0) == {}


def test_ppo_with_reference_and_critic_on_their_own_ranks_learns_the_same(start: Path) -> None:
    ppo = {"algorithm": {"name": "ppo"}, "trainer": {**TRAINER, "num_ranks": 1}, "evaluation": {"num_prompts": 1}}
    own = {"critic": {"num_ranks": 1}, "reference": {"num_ranks": 1}}
    together, apart = run(start, "ppo-together", **ppo), run(start, "ppo-apart", **ppo, **own)
    for line, expected in zip(apart, together, strict=True):
        assert line.keys() == expected.keys()
        for name in ("value/loss", "critic/grad_norm", "policy/kl_ref", "policy/loss", "optimizer/grad_norm"):
            assert line[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-7), name
    manifest = json.loads((start / "ppo-apart" / "checkpoints" / "step_000002" / "manifest.json").read_text())
    assert (manifest["world_size"], manifest["own_ranks"]) == (1, {"reference": 1, "critic": 1})


def test_remax_samples_its_baseline_beside_the_group(start: Path) -> None:
    rollout = {"prompts_per_step": 4, "group_size": 1, "sampling": {"max_response_tokens": 16}}
    lines = run(start, "remax", algorithm={"name": "remax"}, rollout=rollout)
    assert all(line["optimizer/skipped_steps"] == 0 for line in lines)
    replayed = replay(start / "remax", 1)
    assert replayed.differences(0.0) == {} and replayed.replayed["policy/loss"] == lines[0]["policy/loss"]
    other = replay(start / "remax", 1, ["algorithm.whiten=true"])
    assert not other.is_same_recipe and "policy/loss" in other.differences(1e-6)
    with pytest.raises(ValueError, match=r"keeps the weights after steps \[2\]"):
        replay(start / "remax", 2)
    with pytest.raises(ValueError, match="the run has steps 1 to 2"):
        replay(start / "remax", 7)


def test_the_reference_moves_with_the_policy(start: Path) -> None:
    algorithm = {"name": "grpo", "kl_coef": 0.1, "reference_refresh_steps": 2}
    _, apart, refreshed = run(start, "refreshed", algorithm=algorithm, num_steps=3)
    assert apart["policy/kl_ref"] > 1e-7 and refreshed["policy/kl_ref"] == pytest.approx(0, abs=1e-9)


def test_reinforce_pp_makes_token_advantages_with_the_divergence_inside(start: Path) -> None:
    lines = run(start, "reinforce-pp", algorithm={"name": "reinforce_pp"})
    assert lines[-1]["policy/kl_ref"] != 0  # k1 is unbiased, and of either sign


def test_settings_of_a_critic_that_is_not_there_are_refused(start: Path) -> None:
    with pytest.raises(ValueError, match="critic has no effect"):
        launch(recipe("rl", start, name="none", critic={"zero_stage": 2}))
    with pytest.raises(ValueError, match="reference has no effect: kl_coef=0 compares with none"):
        launch(recipe("rl", start, name="none", reference={"num_ranks": 1}))
    with pytest.raises(ValueError, match="leaves none of num_steps=2"):
        launch(recipe("rl", start, name="none", algorithm={"name": "ppo", "critic_warmup_steps": 2}))
