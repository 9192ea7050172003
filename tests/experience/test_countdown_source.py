"""Countdown as a source of data: from a recipe's section to files, prompts and verdicts."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from cluster.folder import RunFolder
from cluster.inputs import data_sources, prompt_tables
from configs.load import load_run
from configs.schema import CountdownConfig, DataConfig, RlRun, TokenizerConfig
from experience.countdown import countdown_tables, write_countdown
from experience.prompts import eval_prompts
from experience.tokenizer import build_tokenizer
from rewards.contract import RewardInput
from rewards.countdown import score_countdown

RECIPE = Path(__file__).resolve().parents[2] / "configs" / "countdown" / "grpo.yaml"
SMALL = CountdownConfig(num_train=200, num_eval=50)


def rows(config: CountdownConfig) -> list[list[dict]]:
    return [table.to_pylist() for table in countdown_tables(config)]


def test_no_held_out_problem_is_trained_on_in_any_order_of_its_numbers() -> None:
    train, held_out = rows(CountdownConfig(num_numbers=2, largest=9, num_train=60, num_eval=20))
    keys, hidden = ({(tuple(sorted(row["numbers"])), row["answer"]) for row in part} for part in (train, held_out))
    assert (len(keys), len(hidden)) == (60, 20)
    assert not keys & hidden


def test_a_prompt_names_the_numbers_the_target_and_the_form_of_the_answer() -> None:
    for row in rows(SMALL)[0]:
        assert f"Use each of {', '.join(map(str, row['numbers']))} once" in row["prompt"]
        assert f"to make {row['answer']}." in row["prompt"]
        assert "between <answer> and </answer>" in row["prompt"]
        assert row["text"] == f"{row['prompt']}\n{row['response']}"


def test_the_reward_reads_a_row_as_it_comes_back_from_the_file(tmp_path: Path) -> None:
    for path in write_countdown(SMALL, tmp_path):
        for row in pq.read_table(path).to_pylist():
            judged = [
                score_countdown(
                    RewardInput(prompt=row["prompt"], response=text, answer=row["answer"], columns=row)
                ).value
                for text in (row["response"], f"<answer>{row['answer']}</answer>")
            ]
            assert judged == [1.0, 0.0]


def test_the_same_section_gives_the_same_rows_and_another_seed_others() -> None:
    assert rows(SMALL) == rows(SMALL)
    assert rows(SMALL)[0] != rows(SMALL.model_copy(update={"seed": 1}))[0]


def test_the_rows_of_a_seed_stay_what_they_are() -> None:
    (row,) = rows(CountdownConfig(num_train=1, num_eval=1, seed=5))[0]
    assert (row["numbers"], row["answer"], row["response"]) == (
        [30, 76, 14, 12],
        "72",
        "<answer>(76+(12-30))+14</answer>",
    )


def test_files_of_the_same_section_are_reused_and_others_stand_beside_them(tmp_path: Path) -> None:
    first = write_countdown(SMALL, tmp_path)
    written = [path.stat().st_mtime_ns for path in first]
    assert write_countdown(SMALL, tmp_path) == first
    assert [path.stat().st_mtime_ns for path in first] == written
    other = write_countdown(SMALL.model_copy(update={"largest": 50}), tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([*first, *other])
    assert [pq.read_table(path).num_rows for path in first] == [200, 50]


def test_a_recipe_reaches_prompts_that_carry_what_the_reward_needs(tmp_path: Path) -> None:
    run = load_run(RECIPE, ["data.countdown.num_train=20", "data.countdown.num_eval=5", f"output_dir={tmp_path}"])
    assert isinstance(run, RlRun)
    run = run.model_copy(update={"data": run.data.model_copy(update={"max_prompt_tokens": 200})})
    tokenizer = build_tokenizer(TokenizerConfig(kind="characters"), [])
    train, held_out = prompt_tables(run, tokenizer, RunFolder(run))
    assert held_out is not None
    assert (len(train), len(held_out)) == (20, 5)
    for prompt in eval_prompts(held_out, 5):
        response = prompt.columns["response"]
        item = RewardInput(prompt=prompt.text, response=response, answer=prompt.answer, columns=prompt.columns)
        assert score_countdown(item).value == 1.0


def test_a_recipe_that_asks_for_more_problems_than_there_are_is_refused(tmp_path: Path) -> None:
    run = load_run(RECIPE, ["data.countdown={num_numbers: 2, largest: 2}", f"output_dir={tmp_path}"])
    with pytest.raises(ValueError, match=r"data\.countdown: only \d+ of 20512 .* num_numbers=2 and largest=2"):
        data_sources(run.data, RunFolder(run))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({}, "set now: none"),
        ({"train": "a.parquet", "countdown": {}}, "set now: data.train, data.countdown"),
        ({"arithmetic": {}, "countdown": {}}, "set now: data.arithmetic, data.countdown"),
        ({"countdown": {}, "eval": "b.parquet"}, "data.eval has no effect with data.countdown"),
        ({"countdown": {"num_numbers": 7}}, "num_numbers"),
        ({"countdown": {"numbers": 4}}, "numbers"),
    ],
)
def test_a_recipe_has_one_source_of_data(settings: dict, complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        DataConfig.model_validate(settings)
