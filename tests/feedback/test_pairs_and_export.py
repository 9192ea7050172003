"""Pairs from runs and files, and the comparisons that their judgements become."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from configs.schema import DataConfig, TokenizerConfig
from experience.comparisons import ComparisonSet
from experience.conversations import JudgedEncoder
from experience.dataset import load_dataset
from experience.encoding import Encoder
from experience.errors import DataError
from experience.store import write_trajectories
from experience.tokenizer import build_tokenizer
from feedback.export import export_comparisons
from feedback.journal import Judgement
from feedback.pairs import load_pairs, make_pair, read_pairs, write_pairs
from tests.experience.test_store import two_groups


def write_rows(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_file_of_responses_gives_pairs_of_different_ones(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "responses": ["1", "2", "1", "3", "4", " "]},
        {"prompt": "b", "responses": ["same", "same"]},
        {"prompt": "c", "responses": None},
    ]
    pairs = read_pairs(write_rows(tmp_path / "f.jsonl", rows), limit=10)
    assert [pair.prompt for pair in pairs] == ["a", "a"]
    assert sorted(response for pair in pairs for response in pair.responses) == ["1", "2", "3", "4"]
    assert pairs == read_pairs(tmp_path / "f.jsonl", limit=10)
    assert len(read_pairs(tmp_path / "f.jsonl", limit=1)) == 1


def test_a_file_of_chosen_and_rejected_hides_which_was_chosen(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{number}", "chosen": "good", "rejected": "bad"} for number in range(40)]
    pairs = read_pairs(write_rows(tmp_path / "f.jsonl", rows), limit=100)
    assert 10 < sum(pair.responses[0] == "good" for pair in pairs) < 30


def test_messages_stay_messages(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "hello"}]
    (pair,) = read_pairs(write_rows(tmp_path / "f.jsonl", [{"prompt": messages, "responses": ["1", "2"]}]), limit=9)
    assert (pair.prompt, pair.shown_prompt) == (messages, "user: hello")
    write_pairs([pair], tmp_path / "pairs.jsonl")
    assert load_pairs(tmp_path / "pairs.jsonl") == [pair]


def test_a_runs_newest_samples_give_one_pair_a_group(tmp_path: Path) -> None:
    groups, blocks = two_groups()
    messages = ({"role": "user", "content": "what?"},)
    asked = [replace(group, prompt=replace(group.prompt, messages=messages)) for group in groups]
    asked = [
        replace(
            group,
            samples=tuple(
                replace(one, trajectory=replace(one.trajectory, prompt=group.prompt)) for one in group.samples
            ),
        )
        for group in asked
    ]
    (tmp_path / "trajectories").mkdir()
    count = sum(len(group.samples) for group in groups)
    for step, kind in ((1, asked), (2, groups)):
        write_trajectories(tmp_path / "trajectories" / f"step_{step:06d}.parquet", step, kind, [0.0] * count, blocks)
    pairs = read_pairs(tmp_path, limit=10)
    assert [pair.prompt for pair in pairs] == ["p?", [dict(message) for message in messages]]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"prompt": "a", "responses": ["1", "1"]}], "nothing to compare"),
        ([{"text": "a"}], "want prompt and responses"),
        ([{"prompt": 3, "responses": ["1", "2"]}], "f.jsonl:1: the prompt is neither"),
        ([{"prompt": "a", "responses": [1, 2]}], "f.jsonl:1: a response is no text"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path: Path, rows: list[dict[str, object]], told: str) -> None:
    with pytest.raises(DataError, match=told):
        read_pairs(write_rows(tmp_path / "f.jsonl", rows), limit=9)


def judged(pair: str, choice: str, labeller: str = "ann", left: int = 0) -> Judgement:
    return Judgement(
        id=f"{pair}{labeller}",
        pair=pair,
        labeller=labeller,
        choice=choice,
        left=left,
        seconds=1.0,  # type: ignore[arg-type]
    )


def test_judgements_become_comparisons_that_a_reward_model_learns_from(tmp_path: Path) -> None:
    pairs = [make_pair(f"p{number}", ("first", "second")) for number in range(6)]
    ids = [pair.id for pair in pairs]
    judgements = [
        judged(ids[0], "left"),
        judged(ids[1], "left", left=1),
        judged(ids[2], "tie"),
        judged(ids[3], "both_bad"),
        judged(ids[4], "left"),
        judged(ids[4], "tie", "bob"),
    ]
    done = export_comparisons(pairs, judgements, tmp_path / "out.parquet")
    assert (done.num_rows, done.num_undecided) == (3, 2)
    dataset = load_dataset(str(tmp_path / "out.parquet"))
    assert dataset.table.column("ratings").to_pylist() == [[1, 0], [0, 1], [0.75, 0.25]]
    tokenizer = build_tokenizer(TokenizerConfig(kind="characters"), ["p0123456789 firstsecond"])
    config = DataConfig(train=str(tmp_path / "out.parquet"))
    comparisons = ComparisonSet(dataset, JudgedEncoder(Encoder(tokenizer)), config, 64)
    assert len(comparisons) == 3


def test_undecided_judgements_alone_are_not_exported(tmp_path: Path) -> None:
    pair = make_pair("p", ("first", "second"))
    with pytest.raises(ValueError, match="none of the 1 judged pairs"):
        export_comparisons([pair], [judged(pair.id, "tie")], tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()
