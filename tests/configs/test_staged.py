"""Recipes of stages: each stage's file and what stands on top, what is handed on, and what is wrong, in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.errors import ConfigError
from configs.load import load_run
from configs.schema import ExportStage, RlRun, SftRun
from configs.staged import StagedRun, load_staged

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "recipes"
RECIPES = sorted(FOLDER.rglob("*.yaml"))

PRETRAIN = {
    "name": "pretrain",
    "stage": "pretrain",
    "model": {"new": {"hidden_size": 64}},
    "data": {"arithmetic": {}},
    "num_steps": 5,
}
SFT = {**PRETRAIN, "name": "sft", "stage": "sft", "model": {"path": "${pretrain.model}"}}

Load = Callable[..., StagedRun]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load(*stages: dict[str, Any], overrides: tuple[str, ...] = (), **head: Any) -> StagedRun:
        content = {"name": "all", "output_dir": str(tmp_path / "runs"), "stages": list(stages), **head}
        (tmp_path / "all.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        return load_staged(tmp_path / "all.yaml", overrides)

    return load


def problems(load: Load, *stages: dict[str, Any], **more: Any) -> list[str]:
    with pytest.raises(ConfigError) as error:
        load(*stages, **more)
    return list(error.value.problems)


def test_there_are_recipes() -> None:
    assert {path.stem for path in RECIPES} >= {"arithmetic"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_a_recipe_of_the_house_loads_from_any_folder(path: Path, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    staged = load_staged(path)
    assert staged.folder == tmp_path / "runs" / (path.stem if path.parent == FOLDER else f"{path.stem}_full")
    assert all(spec.config.name == spec.name for spec in staged.stages)


def test_what_a_stage_leaves_is_handed_to_the_next(load: Load, tmp_path: Path) -> None:
    export = {"name": "hand", "stage": "export", "run": "${sft.run}", "to": "x"}
    pretrain, sft, hand = load(PRETRAIN, SFT, export).stages
    folder = tmp_path / "runs" / "all"
    assert isinstance(sft.config, SftRun) and sft.config.model.path == str(folder / "pretrain" / "export")
    assert isinstance(hand.config, ExportStage) and hand.config.run == str(folder / "sft")
    assert (pretrain.reads, sft.reads, hand.reads) == ((), ("pretrain",), ("sft",))
    assert sft.folder == folder / "sft"
    assert hand.outputs == {"model": Path("x").absolute()}
    assert sft.settings["model.path"] == "${pretrain.model}"


def test_a_stage_is_a_file_with_its_own_keys_on_top(load: Load, tmp_path: Path) -> None:
    (tmp_path / "rl.yaml").write_text(
        "{stage: rl, name: x, model: {path: a}, num_steps: 9, data: {arithmetic: {digits: 3}}, rewards: [{use: math}]}"
    )
    own = {"name": "rl", "recipe": "rl.yaml", "model": {"path": "${pretrain.model}"}, "rewards": [{"use": "exact"}]}
    overrides = ("rl.data.arithmetic.steps=4", "rl.num_steps=8")
    (_, rl) = load(PRETRAIN, own, overrides=overrides).stages
    assert isinstance(rl.config, RlRun) and rl.config.name == "rl"
    assert rl.config.data.arithmetic is not None
    assert (rl.config.data.arithmetic.digits, rl.config.data.arithmetic.steps, rl.config.num_steps) == (3, 4, 8)
    assert [spec.use for spec in rl.config.rewards] == ["exact"]


def test_settings_are_the_same_however_they_are_written(load: Load) -> None:
    (short,) = load(PRETRAIN).stages
    (full,) = load({**PRETRAIN, "seed": 0, "data": {"arithmetic": {"digits": 2}}}).stages
    assert short.settings == full.settings


def test_secrets_are_not_among_the_settings(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUR_TOKEN", "a-long-secret")
    rl = {**SFT, "stage": "rl", "rewards": [{"use": "http", "args": {"url": "http://x/${env:OUR_TOKEN}"}}]}
    (_, spec) = load(PRETRAIN, rl).stages
    assert isinstance(spec.config, RlRun) and spec.config.rewards[0].args["url"] == "http://x/a-long-secret"
    assert spec.settings["rewards.0.args.url"] == "http://x/${env:OUR_TOKEN}"


def test_wrong_keys_of_every_stage_are_told_at_once(load: Load) -> None:
    assert problems(load, {**PRETRAIN, "num_stps": 5}, {**SFT, "optimizer": {"learning_rate": -1}}) == [
        "stage pretrain: num_stps is not a key; did you mean num_steps? (all.yaml:12)",
        "stage sft: optimizer.learning_rate=-1: want a number > 0 and <= 1 (all.yaml:20)",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("${pretrian.model}", "no earlier stage is called 'pretrian'; did you mean pretrain?"),
        ("${x.model}", "no earlier stage is called 'x'; choose one of pretrain"),
        ("${pretrain.modle}", "pretrain leaves no 'modle'; it leaves model, run"),
        ("${pretrain.run}", "that is no model, which model.path wants"),
        ("${pretrain}", "want ${STAGE.OUTPUT}, such as ${sft.model}, or ${env:NAME}"),
        (
            "${sft.model}",
            "sft comes after this stage, or is this one; only what an earlier stage leaves can be handed on",
        ),
    ],
)
def test_what_can_not_be_handed_on_is_told(load: Load, text: str, told: str) -> None:
    (line,) = problems(load, PRETRAIN, {**SFT, "model": {"path": text}})
    assert line.startswith(f"stage sft: model.path: {text}: {told} (all.yaml:")


def test_an_output_that_is_not_made_can_not_be_read(load: Load) -> None:
    sampled = {"name": "pairs", "stage": "preferences", "model": {"path": "${pretrain.model}"}, "data": {"train": "a"}}
    sampled |= {"rewards": [{"use": "math"}]}
    judge = {**SFT, "name": "judge", "stage": "reward_model"}
    judge["data"] = {"train": "${pairs.train}", "eval": "${pairs.eval}"}
    (line,) = problems(load, PRETRAIN, sampled, judge)
    assert "pairs leaves no 'eval'; it leaves train" in line
    load(PRETRAIN, {**sampled, "num_eval_prompts": 1}, judge)


@pytest.mark.parametrize(
    ("stages", "head", "told"),
    [
        ([], {}, "stages: want a list of stages"),
        ([PRETRAIN, PRETRAIN], {}, "stages.1.name=pretrain: an earlier stage has this name (all.yaml:"),
        ([{**PRETRAIN, "name": "a.b"}], {}, "stages.0.name='a.b': want 1 to 64 of A-Z a-z 0-9 _ -, and none of name"),
        ([{**PRETRAIN, "name": "lock"}], {}, "stages.0.name='lock': want"),
        ([PRETRAIN], {"nmae": 1}, "nmae is not a key; a recipe of stages has name, output_dir, stages (all.yaml:"),
        ([PRETRAIN], {"name": "a b"}, "name='a b': want 1 to 64 of"),
        ([{"name": "sft", "recipe": "nowhere.yaml"}], {}, "nowhere.yaml: cannot be read: No such file"),
        ([{"name": "sft"}], {}, "stage sft: stage is missing; for example `stage: rl`; choose one of pretrain, sft"),
        ([{**PRETRAIN, "stage": "evaluate"}], {}, "num_steps is a key of stage pretrain, sft, reward_model, dpo, rl"),
        ([{"name": "e", "stage": "export", "run": "runs/x", "to": "y"}], {}, "run=runs/x: want ${STAGE.run} of a"),
    ],
)
def test_a_wrong_recipe_is_told(load: Load, stages: list[Any], head: dict[str, Any], told: str) -> None:
    assert any(told in line for line in problems(load, *stages, **head))


def test_overrides_name_a_stage(load: Load) -> None:
    assert load(PRETRAIN, overrides=("name=other", "pretrain.num_steps=2")).folder.name == "other"
    (line,) = problems(load, PRETRAIN, overrides=("num_steps=2",))
    assert line.startswith("override 'num_steps=2': write it as STAGE.key=value, where STAGE is one of pretrain, or")


def test_each_command_names_the_other_for_its_recipes(load: Load, tmp_path: Path) -> None:
    load(PRETRAIN)
    with pytest.raises(ConfigError, match=r"a recipe of several stages; `wutong run .*all.yaml` runs it"):
        load_run(tmp_path / "all.yaml")
    one = FOLDER.parent / "arithmetic" / "sft.yaml"
    with pytest.raises(ConfigError, match=r"a recipe of a single stage; `wutong train .*sft.yaml` runs it"):
        load_staged(one)


@pytest.mark.parametrize("key", ["group_size", "prompts_per_step", "max_staleness"])
def test_a_key_about_training_steps_has_no_place_where_nothing_is_trained(load: Load, key: str) -> None:
    stage = {"name": "e", "stage": "evaluate", "model": {"path": "a"}, "data": {"train": "b"}, "rollout": {key: 1}}
    assert f"rollout.{key} has no effect here" in problems(load, {**stage, "rewards": [{"use": "math"}]})[0]


@pytest.mark.parametrize(
    ("against", "told"),
    [
        ({"path": "a"}, "against.path=a: the model itself; name another one"),
        ({"path": "b", "lora": {}}, "against: a checkpoint is sampled as it is; set against.path"),
        ({"path": "${sft.model}"}, "against.path: ${sft.model}: no earlier stage is called 'sft'"),
    ],
)
def test_an_evaluation_compares_two_checkpoints(load: Load, against: dict[str, Any], told: str) -> None:
    stage = {"name": "e", "stage": "evaluate", "model": {"path": "a"}, "data": {"train": "b"}, "against": against}
    assert told in problems(load, {**stage, "rewards": [{"use": "math"}]})[0]
    handed = load(PRETRAIN, {**stage, "against": {"path": "${pretrain.model}"}, "rewards": [{"use": "math"}]})
    assert handed.stages[1].reads == ("pretrain",)
