"""Promise 14, and 13 for what is said: a response or an error controls no terminal, hides nothing, tells no secret."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from cli.main import main
from metrics.safe_log import MAX_CHARACTERS, SafeFormatter, safe
from rewards.contract import RewardInput, Score, Status
from rewards.health import check_failures

ROOT = Path(__file__).parents[2]
HOSTILE = "\x1b]0;title\x07\x1b[2J\x1b[31mred\rover\x00\x9b1m\u202egold\u2066\u200b"
RAW = "\x1b\x07\r\x00\x9b\u202e\u2066\u200b"


def test_what_is_logged_can_not_control_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "canary-in-a-token")
    record = logging.LogRecord("x", logging.ERROR, "", 0, "a response: %s", (HOSTILE,), None)
    try:
        raise RuntimeError(f"401 for canary-in-a-token: {HOSTILE}")
    except RuntimeError:
        record.exc_info = sys.exc_info()
    said = SafeFormatter("%(message)s").format(record)
    assert not set(said) & set(RAW)
    assert "canary" not in said
    assert "401 for ${env:HF_TOKEN}" in said
    assert "␛[31mred" in said


def test_what_is_logged_has_an_end() -> None:
    assert len(safe("x" * 10_000_000)) < MAX_CHARACTERS + 100


def test_errors_of_rewards_quote_a_response_safely() -> None:
    item = RewardInput(prompt="", response=HOSTILE, answer="1", id="7.1")
    failed = Score(value=None, status=Status.ERROR, detail=f"ValueError: {HOSTILE}")
    with pytest.raises(Exception, match=r"the first is 7\.1") as caught:
        check_failures([item], [failed], 0.0)
    assert not set(safe(str(caught.value))) & set(RAW)


REFUSED = """
import sys
from cli import main
main.app = lambda: (_ for _ in ()).throw(ValueError(sys.argv[1]))
main.main()
"""


def test_the_command_tells_an_error_safely() -> None:
    text = HOSTILE.replace("\x00", "") + "canary-in-a-key"
    env = {"WANDB_API_KEY": "canary-in-a-key", "PATH": ""}
    command = [sys.executable, "-c", REFUSED, text]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, env=env, check=False)
    assert done.returncode == 2
    check(done.stderr.decode())


def test_a_traceback_is_told_safely(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "canary-in-a-key")
    monkeypatch.setattr("sys.excepthook", sys.excepthook)  # put back afterwards
    monkeypatch.setattr("cli.main.app", lambda: None)
    main()
    sys.excepthook(ZeroDivisionError, ZeroDivisionError(f"{HOSTILE}canary-in-a-key"), None)
    check(capsys.readouterr().err)


def check(said: str) -> None:
    assert "gold" in said
    assert "canary" not in said
    assert not set(said) & set(RAW)


RULE = """
def fails(item):
    if "gold" in item.response:
        raise ValueError(item.response)
    return 0
"""


def test_reward_check_shows_and_writes_failures_safely(tmp_path: Path) -> None:
    (tmp_path / "rules.py").write_text(RULE)
    rows = [{"id": str(number), "response": text, "answer": "1"} for number, text in enumerate(("1", "2", HOSTILE))]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [str(Path(sys.executable).with_name("wutong")), "reward", "check", "rules.py:fails"]
    options = ["--data", "rows.jsonl", "--rows", "out.jsonl"]
    done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, check=True)
    said, written = done.stdout.decode(), (tmp_path / "out.jsonl").read_text()
    assert "gold" in said
    assert "gold" in json.loads(written.splitlines()[2])["detail"]
    assert not set(said + written) & set(RAW)
