"""The recipes at full size, planned on 1, 8 and 64 GPUs from the published sizes of their models; nothing is run."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.main import app
from tests.cluster.test_plan_sizes import LLAMA, PUBLISHED, QWEN2, config

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FULL = CONFIGS / "recipes" / "full"
GUIDE = (CONFIGS.parent / "docs" / "full_size.md").read_text()
GIB = 2**30

MODELS: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2.5-0.5B-Instruct": PUBLISHED["Qwen2.5-0.5B"],
    "Qwen/Qwen2.5-1.5B": config(QWEN2, 1536, 8960, 28, 12, 2, tie_word_embeddings=True),
    "Qwen/Qwen2.5-7B": PUBLISHED["Qwen2.5-7B"],
    "Qwen/Qwen2.5-32B": PUBLISHED["Qwen2.5-32B"],
    "meta-llama/Llama-3.2-1B": config(LLAMA, 2048, 8192, 16, 32, 8, tie_word_embeddings=True),
    "meta-llama/Llama-3.1-8B": PUBLISHED["Llama-3.1-8B"],
    "meta-llama/Llama-3.1-70B": PUBLISHED["Llama-3.1-70B"],
}
# Models by the number of GPUs, and the stages that start from them, by recipe.
ON = {
    1: ("Qwen/Qwen2.5-1.5B", "meta-llama/Llama-3.2-1B"),
    8: ("Qwen/Qwen2.5-7B", "meta-llama/Llama-3.1-8B"),
    64: ("Qwen/Qwen2.5-32B", "meta-llama/Llama-3.1-70B"),
}
STARTS = {"instructgpt": ("sft",), "r1_zero": ("grpo",), "r1": ("cold_start", "sft")}
TRAINED = {
    "instructgpt": ["sft", "reward_model", "ppo"],
    "r1_zero": ["grpo"],
    "r1": ["cold_start", "reasoning", "sft", "helpful", "harmless", "all_scenarios"],
}
CASES = [(recipe, gpus, model) for recipe in STARTS for gpus, models in ON.items() for model in models]


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A current folder in which each model's name on the hub is a folder with its config.json."""
    for name, sizes in MODELS.items():
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text(json.dumps(sizes))
    monkeypatch.chdir(tmp_path)


def planned(recipe: Path, *arguments: str) -> dict[str, Any]:
    answer = CliRunner().invoke(app, ["plan", str(recipe), *arguments, "--json"])
    assert answer.exit_code == 0, answer.output
    return json.loads(answer.stdout)


def settings(recipe: str, gpus: int, model: str) -> list[str]:
    own = FULL / f"{recipe}.{gpus}"
    return [
        *(own.read_text().split() if gpus != 8 else ()),
        *(f"{stage}.model.path={model}" for stage in STARTS[recipe]),
    ]


def check(plan: dict[str, Any], gpus: int) -> None:
    """It fits with a tenth of each device to spare, on devices that no two of its roles were promised whole."""
    assert plan["problems"] == []
    seats = [(seat["node"], device, seat["role"]) for seat in plan["seats"] for device in seat["devices"]]
    used = {(node, device) for node, device, _ in seats}
    assert len(used) == gpus
    shared = {role["name"]: role["placement"]["gpu_share"] for role in plan["roles"]}
    hosts = {role["name"] for role in plan["roles"] if role["host"]}
    for place in used:
        assert (
            sum(shared[role] for node, device, role in seats if (node, device) == place and role not in hosts) <= 1.001
        )
    for role in plan["roles"]:
        if role["name"] == "rollout":  # an engine takes what it may; what counts is how much it can keep
            assert role["peak_bytes"] <= role["capacity_bytes"]
            assert role["longest_sequences_in_cache"] >= 8
        else:
            assert role["peak_bytes"] <= 0.9 * role["capacity_bytes"], role["name"]


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize(("recipe", "gpus", "model"), CASES)
def test_every_stage_that_trains_fits_its_gpus_with_room_to_spare(recipe: str, gpus: int, model: str) -> None:
    nodes = ["--nodes", str(gpus // 8)] if gpus > 8 else []
    plans = planned(FULL / f"{recipe}.yaml", *settings(recipe, gpus, model), "--gpus", str(gpus), *nodes)
    assert [stage for stage, plan in plans.items() if plan] == TRAINED[recipe]
    for plan in filter(None, plans.values()):
        assert plan["run"] in TRAINED[recipe]
        assert plan["machines"]["gpu_memory"] == 80 * GIB
        check(plan, gpus)


@pytest.mark.usefixtures("models")
def test_ppo_on_gsm8k_fits_one_gpu() -> None:
    plan = planned(CONFIGS / "gsm8k" / "ppo.yaml", "--gpus", "1")
    assert plan["parameters"] == 494_032_768
    check(plan, 1)


def test_the_guide_names_what_was_planned() -> None:
    named = [*(f"{recipe}.yaml" for recipe in STARTS), *(model for models in ON.values() for model in models)]
    assert [name for name in (*named, "RECIPE.1)", "RECIPE.64)", "gsm8k/ppo.yaml") if name not in GUIDE] == []


@pytest.mark.usefixtures("models")
def test_a_stage_can_be_planned_alone_and_an_unknown_one_is_told() -> None:
    recipe = str(FULL / "instructgpt.yaml")
    answer = CliRunner().invoke(app, ["plan", recipe, "--stage", "ppo", "--gpus", "8"])
    assert answer.exit_code == 0
    assert answer.stdout.startswith("plan of ppo (rl): qwen2, 7,615,616,512 parameters")
    assert "plan of sft" not in answer.stdout
    unknown = CliRunner().invoke(app, ["plan", recipe, "--stage", "dpo"])
    assert "--stage dpo: " in str(unknown.exception)
    assert "no such stage; choose one of sft, reward_model, ppo" in str(unknown.exception)
    single = CliRunner().invoke(app, ["plan", str(CONFIGS / "gsm8k" / "ppo.yaml"), "--stage", "ppo"])
    assert "a recipe of a single stage; leave it out" in str(single.exception)


def test_a_recipe_that_starts_from_a_new_model_is_planned_but_for_reward_models_that_it_trains(tmp_path: Path) -> None:
    recipes = CONFIGS / "recipes"
    plans = planned(recipes / "arithmetic.yaml")
    assert [plan and plan["parameters"] for plan in plans.values()] == [plans["pretrain"]["parameters"]] * 3 + [None]
    told = CliRunner().invoke(app, ["plan", str(recipes / "instructgpt.yaml")])
    assert "stage ppo: the sizes of model:" in str(told.exception)
    assert CliRunner().invoke(app, ["plan", str(recipes / "instructgpt.yaml"), "--stage", "sft"]).exit_code == 0
