"""What counts for whether a stage is done again: settings, the bytes of the files that it names, other stages."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.stage_prints import Print, print_of, told
from configs.staged import StageSpec, load_staged

RL = {
    "name": "rl",
    "stage": "rl",
    "model": {"path": "model"},
    "data": {"train": "prompts.jsonl"},
    "rewards": [{"use": "rules.py:f"}, {"use": "math"}],
    "num_steps": 5,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    for name in ("model/config.json", "prompts.jsonl", "rules.py"):
        (tmp_path / name).write_text("{}")
    return tmp_path


def spec(**changes: Any) -> StageSpec:
    Path("all.yaml").write_text(yaml.safe_dump({"name": "all", "stages": [{**RL, **changes}]}))
    return load_staged("all.yaml").stages[0]


def test_the_files_that_a_stage_names_are_read(folder: Path) -> None:
    assert list(print_of(spec(), {}).files) == ["model/config.json", "prompts.jsonl", "rules.py"]


@pytest.mark.parametrize("name", ["model/config.json", "prompts.jsonl", "rules.py"])
def test_other_bytes_make_another_print(folder: Path, name: str) -> None:
    before = print_of(spec(), {})
    (folder / name).write_text("{ }")
    after = print_of(spec(), {})
    assert after.digest != before.digest
    assert after.changes(before) == [f"{name} has other content"]


def test_what_makes_no_difference_to_the_results_is_free(folder: Path) -> None:
    free = {
        "output_dir": "else",
        "logging": {"tensorboard": False},
        "rollout": {"num_workers": 2},
        "trainer": {"num_ranks": 2},
        "checkpoint": {"every_steps": 2},
        "max_hours": 1,
    }
    del free["output_dir"]  # of the head alone
    assert print_of(spec(**free), {}) == print_of(spec(), {})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_steps": 6}, "num_steps was 5, is 6"),
        ({"seed": 1}, "seed was 0, is 1"),
        ({"evaluation": {"num_prompts": 7}}, "evaluation.num_prompts was 512, is 7"),
        ({"checkpoint": {"keep_best": 1}}, "checkpoint.keep_best was 0, is 1"),
        ({"rollout": {"group_size": 4}}, "rollout.group_size was 8, is 4"),
    ],
)
def test_what_does_is_told(folder: Path, changes: dict[str, Any], words: str) -> None:
    before, after = print_of(spec(), {}), print_of(spec(**changes), {})
    assert after.changes(before) == [words]
    assert after.digest != before.digest


def test_another_doing_of_a_stage_that_is_read_is_a_change(folder: Path) -> None:
    before = print_of(spec(), {"sft": "a-1"})
    after = replace(before, reads={"sft": "a-2"})
    assert after.changes(before) == ["sft was done anew"] and after.digest != before.digest


def test_a_print_is_the_same_after_it_was_written_and_read(folder: Path) -> None:
    before = print_of(spec(optimizer={"learning_rate": 1e-7}), {"sft": "a-1"})
    assert Print.from_json(before.as_json()).digest == before.digest


def test_many_changes_are_cut_short() -> None:
    assert told(["a", "b", "c", "d", "e"]) == "a; b; c and 2 more"
    assert told(["a", "b", "c"]) == "a; b; c"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rewards": [{"use": "maths"}]}, "'maths' is unknown; did you mean math"),
        ({"rewards": [{"use": "no.py:f"}]}, "there is no file"),
        ({"data": {"train": "no.jsonl"}}, "no.jsonl: no such file"),
        ({"data": {"train": "prompts.jsonl", "chat_template": "no.jinja"}}, "data.chat_template=no.jinja"),
    ],
)
def test_a_file_that_is_not_there_is_told(folder: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        print_of(spec(**changes), {})
