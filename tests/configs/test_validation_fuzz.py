"""Whatever stands at a key, the answer is a run or a list of problems, never another exception."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import ConfigError
from configs.keys import all_keys
from configs.validation import validate
from configs.yaml_source import Document

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "1e-6", "4", "yes", "math", "a.b"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["use", "path", "clip", "token", "", "a.b", "0"]), inner, max_size=3)
    ),
    max_leaves=6,
)


def recipe(stage: str) -> dict[str, Any]:
    rewards = {"rewards": [{"use": "math"}]} if stage == "rl" else {}
    return {"stage": stage, "name": "x", "num_steps": 1, "model": {"path": "a"}, "data": {"train": "b"}} | rewards


def put(data: dict[str, Any], dotted: str, value: object) -> None:
    container: Any = data
    *parents, last = dotted.replace("N", "0").split(".")
    for part in parents:
        container = container[0] if isinstance(container, list) else container.setdefault(part, {})
    container[0 if isinstance(container, list) else last] = value


@settings(max_examples=300)
@given(st.sampled_from(["pretrain", "sft", "rl"]), st.sampled_from(sorted(all_keys())), VALUES)
def test_any_value_at_any_key_is_taken_or_told(stage: str, key: str, value: object) -> None:
    data = recipe(stage)
    put(data, key if stage == "rl" else key.replace("rewards.N.", "rewards."), value)
    try:
        validate(Document(name="run.yaml", data=data, origins={}), {})
    except ConfigError as error:
        assert error.problems
        assert all("\n" not in problem for problem in error.problems)


@pytest.mark.parametrize("stage", ["pretrain", "sft", "rl"])
def test_the_recipe_under_the_fuzz_is_valid(stage: str) -> None:
    assert validate(Document(name="run.yaml", data=recipe(stage), origins={}), {}).stage == stage
