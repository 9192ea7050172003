"""What a user gets for a recipe: the run it describes, or one line for each problem in it."""

import logging
from pathlib import Path

import pytest

from configs.errors import ConfigError
from configs.keys import ALL_STAGES, keys_of
from configs.load import load_run
from configs.schema import RlRun
from configs.validation import EXAMPLES

RECIPE = """\
stage: rl
name: small
num_steps: 3
model: {path: some/model}
data:
  train: prompts.parquet
rewards:
  - use: math
  - {use: length, weight: 0.5}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(RECIPE)
    return path


def write(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text)
    return path


def problems_of(path: Path, *overrides: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_run(path, overrides)
    return caught.value.problems


def test_a_recipe_becomes_the_run_of_its_stage(recipe: Path) -> None:
    run = load_run(recipe)
    assert isinstance(run, RlRun)
    assert (run.name, run.num_steps, run.model.path, run.data.train) == (
        "small",
        3,
        "some/model",
        "prompts.parquet",
    )
    assert [(spec.use, spec.weight) for spec in run.rewards] == [("math", 1.0), ("length", 0.5)]


def test_overrides_win_and_the_last_one_counts(recipe: Path) -> None:
    overrides = ["rollout.group_size=4", "rewards.1.weight=2", "seed=1", "seed=2", "rollout.sampling.temperature=0.5"]
    run = load_run(recipe, overrides)
    assert isinstance(run, RlRun)
    assert (run.rollout.group_size, run.rollout.sampling.temperature) == (4, 0.5)
    assert (run.rewards[1].weight, run.seed) == (2.0, 2)


def test_an_override_can_unset_a_key_and_set_its_alternative(recipe: Path) -> None:
    run = load_run(recipe, ["data.train=null", "data.arithmetic={digits: 3}"])
    assert run.data.train is None
    assert run.data.arithmetic is not None
    assert run.data.arithmetic.digits == 3


def test_an_unknown_key_is_named_with_its_line_and_what_was_meant(tmp_path: Path) -> None:
    path = write(tmp_path, RECIPE + "train:\n  lerning_rate: 1e-6\n")
    assert problems_of(path) == (
        "train.lerning_rate is not a key; did you mean optimizer.learning_rate? (run.yaml:11)",
    )


def test_all_problems_are_listed_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, RECIPE + "seed: -1\noptimizer: {beta1: 1, lr: 3}\nrollout:\n  group_size: many\n")
    assert problems_of(path) == (
        "seed=-1: want an integer >= 0 and < 4294967296 (run.yaml:10)",
        "optimizer.beta1=1: want a number >= 0 and < 1 (run.yaml:11)",
        "optimizer.lr is not a key; `wutong config --schema` lists all keys (run.yaml:11)",
        "rollout.group_size='many': want an integer >= 1 (run.yaml:13)",
    )


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("optimizer.learning_rate=0", "optimizer.learning_rate=0: want a number > 0 and <= 1 (command line)"),
        ("optimizer.learning_rate=.nan", "optimizer.learning_rate=nan: want a number > 0 and <= 1 (command line)"),
        ("optimizer.weight_decay=.nan", "optimizer.weight_decay=nan: want a number >= 0 (command line)"),
        ("optimizer.weight_decay=.inf", "optimizer.weight_decay=inf: want a number >= 0 (command line)"),
        ("seed.x=3", "seed={...}: want an integer >= 0 and < 4294967296 (command line)"),
        ("seed=true", "seed=true: want an integer >= 0 and < 4294967296 (command line)"),
        ("optimizer.weight_decay=false", "optimizer.weight_decay=false: want a number >= 0 (command line)"),
        ("seed=1.5", "seed=1.5: want an integer >= 0 and < 4294967296 (command line)"),
        ("trainer.zero_stage=7", "trainer.zero_stage=7: want one of 0, 1, 2, 3 (command line)"),
        ("stage=rlhf", "stage='rlhf': choose one of pretrain, sft, reward_model, dpo, rl (command line)"),
        ("rewards=[]", "rewards=[]: want at least one, for example `rewards: [{use: math}]` (command line)"),
        ("rewards.0.use=null", "rewards.0.use=null: want a text (command line)"),
        ("rewards.2.use=x", "override rewards.2: rewards is a list; valid: an index from 0 to 1"),
        ("num_steps.x=1", "override num_steps.x: num_steps is a single value and has no keys"),
        ("rollout.groupsize=4", "rollout.groupsize is not a key; did you mean rollout.group_size? (command line)"),
        (
            "max_sequence_tokens=4",
            "max_sequence_tokens is a key of stage pretrain, sft, reward_model, dpo, not of rl (command line)",
        ),
        ("seed", "override 'seed': write it as key=value, such as rollout.group_size=4"),
        ("seed=[1", "override seed:1:3: expected ',' or ']', but got '<stream end>'"),
        ("rewards.0.clip=[1]", "rewards.0.clip=[...]: want a list of 2 of (a number), or null (command line)"),
        (
            "data={arithmetic: {operations: [+, /]}}",
            "data.arithmetic.operations.1='/': want a list of (one of +, -, *) (command line)",
        ),
        ("rewards=[{}]", "rewards.0.use is missing; for example `use: math` (command line)"),
        ("cluster.num_cpus=0", "cluster.num_cpus=0: want an integer >= 1, or null (command line)"),
        (
            "rollout.group_size=1",
            "rollout.group_size=1: advantage='grpo' compares the samples of a prompt; set it to 2 or more"
            " (command line)",
        ),
        (
            "rollout={tensor_parallel_size: 2, lora_sync: adapter}",
            "rollout: tensor_parallel_size=2 with lora_sync=adapter: an engine on several devices takes no adapters "
            "yet; set lora_sync=merged, or tensor_parallel_size=1 (command line)",
        ),
        (
            "model.new={}",
            "model: set exactly one of model.path (an existing checkpoint) and model.new (random weights) (run.yaml:4)",
        ),
    ],
)
def test_a_wrong_value_is_told_in_one_line(recipe: Path, override: str, problem: str) -> None:
    assert problems_of(recipe, override) == (problem,)


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "-x", "a b", "x" * 65, "é", '"a\\0"', '""', "7"])
def test_a_run_name_is_a_plain_folder_name(recipe: Path, name: str) -> None:
    (problem,) = problems_of(recipe, f"name={name}")
    assert problem.endswith("want 1 to 64 of A-Z a-z 0-9 . _ -, the first a letter, a digit or _ (command line)")


@pytest.mark.parametrize("name", ["a", "qwen3-0.6b_try.2", "x" * 64, "1st"])
def test_plain_folder_names_are_run_names(recipe: Path, name: str) -> None:
    assert load_run(recipe, [f"name={name}"]).name == name


def test_a_section_set_by_an_override_no_longer_stands_in_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, RECIPE + "optimizer:\n  beta1: 0.5\n")
    (problem,) = problems_of(path, "optimizer={beta1: 2}")
    assert problem == "optimizer.beta1=2: want a number >= 0 and < 1 (command line)"


def test_missing_keys_come_with_an_example(tmp_path: Path) -> None:
    path = write(tmp_path, "stage: rl\nrewards: [{weight: 1}]\n")
    assert problems_of(path) == (
        "name is missing; for example `name: my-first-run` (run.yaml)",
        "model is missing; for example `model: {path: Qwen/Qwen3-0.6B}` (run.yaml)",
        "data is missing; for example `data: {train: prompts.parquet}` (run.yaml)",
        "num_steps is missing; for example `num_steps: 100` (run.yaml)",
        "rewards.0.use is missing; for example `use: math` (run.yaml:2)",
    )
    path = write(tmp_path, "name: x\n")
    assert problems_of(path) == (
        "stage is missing; for example `stage: rl`; choose one of pretrain, sft, reward_model, dpo, rl (run.yaml)",
    )


def test_every_required_key_has_an_example() -> None:
    required = {key.path for stage in ALL_STAGES for key in keys_of(stage).values() if key.is_required}
    assert required == set(EXAMPLES)


def test_an_algorithm_that_does_not_exist_is_told_with_its_line_and_the_choices(tmp_path: Path) -> None:
    (problem,) = problems_of(write(tmp_path, RECIPE + "algorithm:\n  name: gppo\n"))
    assert problem.startswith("algorithm.name='gppo': unknown; choose one of ")
    assert problem.endswith("(run.yaml:11)")


def test_a_column_that_the_row_does_not_use_is_refused(recipe: Path) -> None:
    (problem,) = problems_of(recipe, "algorithm.name=rloo", "algorithm.clip_low=0.1")
    assert problem.startswith("algorithm.clip_low has no effect")


def test_a_number_in_quotes_is_taken_with_a_note(recipe: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run = load_run(recipe, ['optimizer.learning_rate="1e-5"', "optimizer.beta1=0", "num_steps=4.0"])
    assert (run.optimizer.learning_rate, run.num_steps) == (1e-5, 4)
    assert caplog.messages == [
        "num_steps: read 4.0 as 4",
        "optimizer.learning_rate: read '1e-5' as 1e-05",
    ]


def test_placeholders_take_the_environment(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCH_SPACE", "/scratch")
    run = load_run(recipe, ["output_dir=${env:SCRATCH_SPACE}/runs", "data.system_prompt=$HOME ${oc.env:X}"])
    assert run.output_dir == "/scratch/runs"
    assert run.data.system_prompt == "$HOME ${oc.env:X}"


def test_an_unset_variable_is_named(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOT_SET", raising=False)
    assert problems_of(recipe, "model.path=${env:NOT_SET}", "data.train=${env:}") == (
        "model.path (command line): the environment variable NOT_SET is not set",
        "data.train (command line): the environment variable  is not set",
    )


def test_no_message_shows_a_value_of_the_environment(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("CANARY", "canary")
    monkeypatch.setenv("SEVEN", "7")
    assert problems_of(recipe, "seed=${env:CANARY}") == (
        "seed=${env:CANARY}: want an integer >= 0 and < 4294967296 (command line)",
    )
    assert load_run(recipe, ["seed=${env:SEVEN}"]).seed == 7
    assert caplog.messages == ["seed: read ${env:SEVEN} as int"]
    assert "canary" not in "".join(problems_of(recipe, "rewards={a: ${env:CANARY}}"))


def test_a_secret_written_out_is_warned_of_and_never_shown(recipe: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_run(recipe, ["rewards.0.args={api_key: canary, max_tokens: many}"])
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert record.getMessage().startswith("rewards.0.args.api_key (command line): a secret written out")
    assert "canary" not in record.getMessage()
    assert "canary" not in "".join(problems_of(recipe, "rewards={api_key: canary}", "api_key=canary"))


def test_a_redacted_recipe_says_what_to_set(recipe: Path) -> None:
    (problem,) = problems_of(recipe, 'rewards.0.args={api_key: "<redacted>"}')
    assert problem.startswith("rewards.0.args.api_key (command line): was redacted when this file was written")
