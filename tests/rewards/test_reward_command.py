"""`wutong reward`: what the command prints, writes and refuses."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.reward import app
from rewards.agreement import compare
from rewards.builtin import BUILTINS
from rewards.contract import RewardError, RewardInput
from rewards.remote import RemoteConfig, RemoteReward
from tests.actors.tiny_reward_models import make_reward_model, value_of

ROOT = Path(__file__).resolve().parents[2]
ROWS = [
    {"id": "a", "text": "#### 42", "gold": "42", "ok": True},
    {"id": "b", "text": "#### 41", "gold": "42", "ok": False},
    {"id": "c", "text": "42", "gold": "42", "ok": True},
]
COLUMNS = ["--response-column", "text", "--answer-column", "gold"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


def test_check_tells_values_times_hostile_answers_and_confusion(data: Path, tmp_path: Path) -> None:
    rows = tmp_path / "out.jsonl"
    arguments = ["check", "gsm8k", "--data", str(data), *COLUMNS, "--label-column", "ok", "--against", "exact"]
    result = CliRunner().invoke(app, [*arguments, "--json", "--rows", str(rows)])
    assert result.exit_code == 0, result.output
    summary = json.loads(result.output)
    assert summary["statuses"] == {"ok": 2, "no_answer": 1}
    assert summary["values"] == {"1": 1, "0": 2}
    assert summary["is_deterministic"] is True
    assert summary["hostile"]["answers"] >= 150
    assert summary["hostile"]["taken_for_right"] == []
    assert summary["hostile"]["failures"] == 0
    assert summary["labels"]["disagreements"] == ["c"]
    assert (summary["labels"]["both_right"], summary["labels"]["only_reference"]) == (1, 1)
    assert summary["other"]["disagreements"] == ["a", "c"]
    written = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    assert [(row["id"], row["value"], row["status"]) for row in written] == [
        ("a", 1.0, "ok"), ("b", 0.0, "ok"), ("c", 0.0, "no_answer"),
    ]  # fmt: skip
    assert all(row["seconds"] > 0 for row in written)


def test_check_shows_a_table_for_people(data: Path, tmp_path: Path) -> None:
    lines = ["import random", "def score(item):", "    if item.id == 'b': raise ValueError('no [b]')"]
    (tmp_path / "mine.py").write_text("\n".join([*lines, "    return random.random()"]), encoding="utf-8")
    data.write_text("".join(json.dumps(row) + "\n" for row in [ROWS[0], ROWS[2], ROWS[1]]), encoding="utf-8")
    result = CliRunner().invoke(app, ["check", f"{tmp_path}/mine.py:score", "--data", str(data), *COLUMNS])
    assert result.exit_code == 0, result.output
    assert "no: a, c" in result.output
    assert "mine.py:3:ValueError:no[b]" in "".join(result.output.split())  # lines break where the path's length wants


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "gsm8k", "--data", "none.jsonl"], "there is no such file"),
        (["check", "gsm9k", "--data", "{data}", *COLUMNS], "did you mean gsm8k"),
        (["check", "gsm8k", "--data", "{data}"], "no column 'response'; it has id, text, gold, ok"),
        (["check", "gsm8k", "--data", "{data}", *COLUMNS, "--args", "{{"], "not JSON"),
        (["check", "gsm8k", "--data", "{data}", *COLUMNS, "--args", "[1]"], "expected an object"),
        (["check", "math", "--data", "{data}", *COLUMNS, "--args", '{{"marker": "x"}}'], "marker='x': unknown"),
    ],
)
def test_check_refuses_wrong_input_with_one_line(arguments: list[str], message: str, data: Path) -> None:
    result = CliRunner().invoke(app, [argument.format(data=data) for argument in arguments])
    assert isinstance(result.exception, RewardError)
    assert message in str(result.exception)


def test_a_broken_line_is_named(data: Path) -> None:
    data.write_text('{"text": "a"}\n{"text": \n', encoding="utf-8")
    result = CliRunner().invoke(app, ["check", "exact", "--data", str(data), *COLUMNS])
    assert f"{data}:2: not JSON" in str(result.exception)


def test_list_names_every_built_in_reward() -> None:
    result = CliRunner().invoke(app, ["list"])
    assert all(name in result.output for name in BUILTINS)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], RemoteReward]]:
    """Serves a reward; the client that asks it. Each server must end well on an interrupt."""
    monkeypatch.setenv("WUTONG_REWARD_TOKEN", "t")
    servers = []

    def start(target: str) -> RemoteReward:
        server = subprocess.Popen(
            [sys.executable, "-c", "from cli.reward import app; app()", "serve", target, "--port", "0"],
            cwd=ROOT, env={**os.environ, "WUTONG_REWARD_TOKEN": "t"}, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        servers.append(server)
        assert server.stdout is not None
        return RemoteReward(RemoteConfig(url=server.stdout.readline().split()[-1]))

    yield start
    for server in servers:
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=20) == 0
        server.stdout.close()


def test_serve_answers_for_a_rule(serve: Callable[[str], RemoteReward]) -> None:
    item = RewardInput(prompt="", response="#### 7", answer="7")
    assert serve("gsm8k").score_blocking([item])[0].value == 1.0


def test_serve_answers_for_a_reward_model(serve: Callable[[str], RemoteReward], tmp_path: Path) -> None:
    model = make_reward_model(tmp_path)
    item = RewardInput(prompt="What is 1 + 1?", response="It is 2.", answer=None)
    (score,) = serve(f"model:{model}").score_blocking([item])
    assert score.value == pytest.approx(value_of(model, item), abs=1e-4)


def test_check_compares_a_rule_with_a_reward_model(data: Path, tmp_path: Path) -> None:
    model = make_reward_model(tmp_path / "model")
    arguments = ["check", f"model:{model}", "--data", str(data), *COLUMNS, "--against", "gsm8k", "--json"]
    summary = json.loads(CliRunner().invoke(app, arguments).stdout)
    assert summary["is_deterministic"] and summary["statuses"] == {"ok": 3}
    assert summary["other"]["compared"] == 3


def test_a_path_that_is_no_reward_model_is_named(data: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["check", f"model:{tmp_path}/none", "--data", str(data), *COLUMNS])
    assert isinstance(result.exception, ValueError)
    assert str(result.exception) == f"model:{tmp_path}/none: not a folder"


def test_serve_wants_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WUTONG_REWARD_TOKEN", raising=False)
    result = CliRunner().invoke(app, ["serve", "math"])
    assert "WUTONG_REWARD_TOKEN is empty" in str(result.exception)


def test_agreement_is_counted_sample_by_sample() -> None:
    agreement = compare([1.0, 1.0, 0.0, 0.0, None], [1.0, 0.0, 1.0, 0.0, 1.0])
    assert (agreement.both_right, agreement.only_scorer, agreement.only_reference, agreement.both_wrong) == (1, 1, 1, 1)
    assert (agreement.num_samples, agreement.num_compared, agreement.share) == (5, 4, 0.5)
    assert (agreement.kappa, agreement.correlation, agreement.disagreements) == (0.0, 0.0, (1, 2))
    assert compare([0.0, 1.0, 1.0], [0.0, 1.0, 1.0]).kappa == 1.0
    with pytest.raises(ValueError, match="2 values against 1"):
        compare([1.0, 0.0], [1.0])
