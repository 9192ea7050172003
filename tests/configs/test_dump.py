"""A resolved recipe loads to the same run, and holds no secret."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from configs.load import dump_run, load_run
from configs.redaction import is_secret_key, redact
from configs.schema import DataConfig, ModelConfig, NewModelConfig, RewardSpec, RlRun, Run, SftRun

KEYS = st.text().filter(lambda key: key != "<<" and not is_secret_key(key))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


def reloaded(run: Run) -> Run:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(dump_run(run), encoding="utf-8", newline="")
        return load_run(path)


def rl_run(args: dict[str, object]) -> RlRun:
    return RlRun(
        stage="rl",
        name="x",
        num_steps=1,
        model=ModelConfig(new=NewModelConfig()),
        data=DataConfig(train="a b.parquet", system_prompt="1e-6"),
        rewards=(RewardSpec(use="math", args=args), RewardSpec(use="length", weight=-0.5)),
    )


@example({"...": "...", "---": "---"})  # YAML's marks of a document's end and start
@example({"digits": "7" * 5000})  # more than Python converts to a number
@given(st.dictionaries(KEYS, VALUES, max_size=3))
def test_a_dumped_run_loads_to_the_same_run(args: dict[str, object]) -> None:
    run = rl_run(args)
    assert reloaded(run) == run


def test_every_key_is_written_with_its_meaning() -> None:
    run = SftRun(stage="sft", name="x", num_steps=1, model=ModelConfig(path="a"), data=DataConfig(train="b.jsonl"))
    lines = dump_run(run).splitlines()
    assert lines[0].startswith("stage: sft  # ")
    assert "  learning_rate: 1e-06  # Peak learning rate." in lines
    assert max(map(len, lines)) <= 110
    assert reloaded(run) == run


def test_columns_left_to_the_row_show_the_row_s_value() -> None:
    lines = dump_run(rl_run({})).splitlines()
    assert "  clip_low: null  # the row's: 0.2. Lower clip range: the ratio is clipped below 1 - clip_low." in lines


@pytest.mark.parametrize(
    "name", ["token", "api_key", "HF_TOKEN", "secret", "db.password", "password_2", "API-KEY", "apikey"]
)
def test_names_of_secrets_are_known(name: str) -> None:
    assert is_secret_key(name)


@pytest.mark.parametrize(
    "name",
    [
        "max_tokens",
        "tokenizer",
        "keyword",
        "keys",
        "monkey",
        "experts_per_token",
        "pad_token",
        "token_mean",
        "key_column",
    ],
)
def test_names_that_hold_such_words_as_parts_are_not_secret(name: str) -> None:
    assert not is_secret_key(name)


def test_secrets_become_their_variable_or_are_redacted() -> None:
    environment = {"HF_TOKEN": "hf_0123456789", "HOME": "/home/somebody", "SHORT_KEY": "abc"}
    value = {
        "api_key": "literal",
        "token": "hf_0123456789",
        "url": "https://hf_0123456789@example.org",
        "nested": [{"password": 7, "path": "/home/somebody", "word": "abc"}],
        "secret": None,
    }
    assert redact(value, environment=environment) == {
        "api_key": "<redacted>",
        "token": "${env:HF_TOKEN}",
        "url": "https://${env:HF_TOKEN}@example.org",
        "nested": [{"password": "<redacted>", "path": "/home/somebody", "word": "abc"}],
        "secret": None,
    }


def test_a_dump_holds_no_secret_and_loads_where_the_variable_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_API_KEY", "canary-canary")
    run = rl_run({"api_key": "canary-canary", "max_tokens": 5})
    assert "canary" not in dump_run(run)
    assert reloaded(run) == run
