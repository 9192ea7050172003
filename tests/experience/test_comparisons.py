"""Comparisons of responses: the forms that data come in, what is refused, and the blocks that are made of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import TokenizerConfig
from configs.schema.data import DataConfig
from experience.comparisons import ComparisonSet
from experience.conversations import ConversationEncoder, JudgedEncoder, LastTurnEncoder, _last_run
from experience.dataset import load_dataset
from experience.encoding import Encoder
from experience.errors import DataError
from experience.records import TokenBlock
from experience.tokenizer import build_tokenizer

TOKENIZER = build_tokenizer(TokenizerConfig(kind="characters"), ())


def said(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def read(folder: Path, *rows: dict[str, Any], limit: int = 100, judged: bool = True, **config: Any) -> ComparisonSet:
    file = folder / "data.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    encoder = Encoder(TOKENIZER)
    return ComparisonSet(
        load_dataset(str(file)),
        JudgedEncoder(encoder) if judged else LastTurnEncoder(encoder),
        DataConfig.model_validate({"train": str(file), **config}),
        limit,
    )


def texts(block: TokenBlock) -> list[str]:
    return [TOKENIZER.decode(block.tokens[block.span(row)]) for row in range(len(block))]


def whole(comparisons: ComparisonSet) -> TokenBlock:
    return comparisons.block(np.arange(len(comparisons)))


AS_TEXT = {"prompt": "2+2", "chosen": "4", "rejected": "5"}
FORMS = {
    "texts": AS_TEXT,
    "prompt as messages": {**AS_TEXT, "prompt": [said("user", "2+2")]},
    "answers as messages": {**AS_TEXT, "chosen": [said("assistant", "4")], "rejected": [said("assistant", "5")]},
    "conversations beside the prompt": {
        "prompt": "2+2",
        "chosen": [said("user", "2+2"), said("assistant", "4")],
        "rejected": [said("user", "2+2"), said("assistant", "5")],
    },
    "conversations alone": {
        "chosen": [said("user", "2+2"), said("assistant", "4")],
        "rejected": [said("user", "2+2"), said("assistant", "5")],
    },
    "ratings": {"prompt": "2+2", "responses": ["4", "5"], "ratings": [1, 0]},
    "verdicts": {"prompt": "2+2", "responses": ["4", "5"], "ratings": [True, False]},
    "ranks": {"prompt": "2+2", "responses": ["4", "5"], "ranks": [1, 2]},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_comparison(tmp_path: Path, form: str) -> None:
    block = whole(read(tmp_path, FORMS[form]))
    assert texts(block) == ["<|user|>2+2<|end|><|assistant|>4<|end|>", "<|user|>2+2<|end|><|assistant|>5<|end|>"]
    assert block.ranking is not None
    assert block.ranking.edges.tolist() == [0, 2]
    assert block.ranking.ratings[0] == block.ranking.ratings[1] + 1


def test_columns_have_the_names_that_the_recipe_gives_them(tmp_path: Path) -> None:
    row = {"question": "2+2", "better": "4", "worse": "5", "by": 2.5}
    names = {"prompt": "question", "chosen": "better", "rejected": "worse", "margin": "by"}
    block = whole(read(tmp_path, row, **{f"{key}_column": name for key, name in names.items()}))
    assert block.ranking is not None and block.ranking.ratings.tolist() == [2.5, 0]


def test_a_block_holds_the_responses_of_each_comparison_side_by_side(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "responses": ["b", "c", "d"], "ratings": [0.5, 2, -1]},
        {"prompt": "e", "responses": ["f", "g"], "ratings": [1, 3]},
    ]
    comparisons = read(tmp_path, *rows)
    block = comparisons.block(np.array([1, 0]))
    assert block.ranking is not None
    assert block.ranking.edges.tolist() == [0, 2, 5]
    assert block.ranking.ratings.tolist() == [1, 3, 0.5, 2, -1]
    assert [text.removesuffix("<|end|>")[-1] for text in texts(block)] == ["f", "g", "b", "c", "d"]
    assert comparisons.longest_tokens == 3 * len("uaeaxe")


def test_a_reward_model_s_sequences_count_their_last_token(tmp_path: Path) -> None:
    block = whole(read(tmp_path, AS_TEXT))
    assert np.flatnonzero(block.response_mask).tolist() == (block.offsets[1:] - 1).tolist()


def test_a_policy_s_sequences_count_the_last_answer_alone(tmp_path: Path) -> None:
    turns = [said("user", "1"), said("assistant", "one"), said("user", "2")]
    row = {"prompt": turns, "chosen": "two", "rejected": "three"}
    block = whole(read(tmp_path, row, judged=False))
    learned = [TOKENIZER.decode(block.tokens[block.span(i)][block.response_mask[block.span(i)]]) for i in range(2)]
    assert learned == ["two<|end|>", "three<|end|>"]


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_the_last_run_of_a_mask(mask: list[bool]) -> None:
    end = len(mask) - mask[::-1].index(True) if any(mask) else 0
    start = end
    while start and mask[start - 1]:
        start -= 1
    assert np.flatnonzero(_last_run(np.array(mask))).tolist() == list(range(start, end))


def test_both_encoders_read_the_same_tokens() -> None:
    pairs = [("what<|end|>", "that"), ([said("system", "s"), said("user", "u")], "a")]
    encoder = Encoder(TOKENIZER)
    for one, other in zip(
        JudgedEncoder(encoder).encode(pairs), ConversationEncoder(encoder).encode(pairs), strict=True
    ):
        assert one.tokens.tolist() == other.tokens.tolist()


LACKING = {
    "no prompt": {**AS_TEXT, "prompt": " "},
    "no response": {**AS_TEXT, "rejected": None},
    "one response with two ratings": {**AS_TEXT, "rejected": "4"},
}


@pytest.mark.parametrize("reason", LACKING)
def test_rows_without_a_comparison_are_refused_by_line_or_left_out(tmp_path: Path, reason: str) -> None:
    rows = [AS_TEXT, LACKING[reason]]
    with pytest.raises(DataError, match=rf"1 of 2 rows have {reason}: .*data\.jsonl:2; .*data\.missing_values=drop"):
        read(tmp_path, *rows)
    assert len(read(tmp_path, *rows, missing_values="drop")) == 1


def test_equal_ratings_are_no_comparison(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "responses": ["b", "c"], "ratings": ratings} for ratings in ([1, 2], [3, 3])]
    with pytest.raises(DataError, match=r"1 of 2 rows have no two different ratings: .*:2"):
        read(tmp_path, *rows)
    assert len(read(tmp_path, *rows, missing_values="drop")) == 1


WRONG = {
    "2 responses with 1 ratings": {"prompt": "a", "responses": ["b", "c"], "ratings": [1]},
    "a response is rated 'x'": {"prompt": "a", "responses": ["b", "c"], "ratings": ["x", "y"]},
    "a response is rated None": {"prompt": "a", "responses": ["b", "c"], "ranks": [1, None]},
    "margin is -1; want a number above 0": {**AS_TEXT, "margin": -1},
    "answer different prompts": {
        "chosen": [said("user", "a"), said("assistant", "b")],
        "rejected": [said("user", "c"), said("assistant", "d")],
    },
    "repeats another prompt than the one of its row": {
        "prompt": "x",
        "chosen": [said("user", "a"), said("assistant", "b")],
        "rejected": [said("user", "a"), said("assistant", "d")],
    },
    "ends with a message of role 'user'": {"chosen": [said("user", "a")], "rejected": [said("user", "b")]},
    "role 'human'": {"prompt": [said("human", "a")], "chosen": "b", "rejected": "c"},
}


@pytest.mark.parametrize("complaint", WRONG)
def test_what_is_wrong_with_a_row_is_said_with_its_line(tmp_path: Path, complaint: str) -> None:
    with pytest.raises(DataError, match=rf"data\.jsonl:1: .*{complaint}"):
        read(tmp_path, WRONG[complaint])


def test_a_long_response_is_refused_with_its_line(tmp_path: Path) -> None:
    rows = [AS_TEXT, {**AS_TEXT, "chosen": "x" * 40}]
    with pytest.raises(DataError, match=r"1 of 2 comparisons .*max_sequence_tokens=30 .*longest 47\): .*:2"):
        read(tmp_path, *rows, limit=30)


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"prompt": "a", "chosen": "b"}, "neither columns 'chosen' and 'rejected' nor 'responses'"),
        ({"chosen": "a", "rejected": "b"}, "no column 'prompt'.*data.prompt_column"),
        ({"prompt": "a", "responses": ["b", "c"]}, "no column 'ranks'.*data.ratings_column or data.ranks_column"),
    ],
)
def test_missing_columns_are_named_with_the_key_that_mends_it(tmp_path: Path, row: dict[str, Any], complaint: str):
    with pytest.raises(DataError, match=complaint):
        read(tmp_path, row)
