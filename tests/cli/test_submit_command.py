"""`wutong submit` up to the point where it would speak to a cluster."""

from pathlib import Path

import pytest

from cli.main import main

RECIPE = """
stage: rl
name: mine
output_dir: /mnt/runs
num_steps: 1
model: {path: /mnt/model}
data: {train: /mnt/data.parquet}
rewards: [{use: "./my_rules.py:f", args: {word: "${env:MY_WORD}"}}]
"""
RULE = "def f(item, word):\n    return 1.0\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MY_WORD", "hello")
    (tmp_path / "run.yaml").write_text(RECIPE)
    (tmp_path / "my_rules.py").write_text(RULE)
    return tmp_path


def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["wutong", "submit", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_a_dry_run_lists_each_file_with_its_size_and_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = said(
        monkeypatch, capsys, "run.yaml", "seed=1", "--resume", "--allow", "seed", "--dry-run", "--address", "http://x"
    )
    lines = out.splitlines()
    assert code == 0
    assert f"{len(RECIPE):>12,}  job/run.yaml" in lines
    assert f"{len(RULE):>12,}  job/my_rules.py" in lines
    assert lines[-1] == (
        "command: cd job && exec python -P -m cli train run.yaml seed=1 cluster.address=auto --resume --allow=seed"
    )
    assert "hello" not in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--address: name the cluster's dashboard, such as --address http://HEAD:8265"),
        (("--driver-memory", "lots"), "--driver-memory lots: want a number and a unit, such as 80GiB"),
        (("--driver-resource", "disk"), "--driver-resource disk: want NAME=AMOUNT, such as disk=1"),
        (
            ("--exact",),
            "--exact, --allow and --trust-checkpoint say how to go on; they have no effect",
        ),
        (("num_stepz=1", "--address", "http://127.0.0.1:9"), "num_stepz is not a key; did you mean num_steps?"),
    ],
)
def test_what_is_wrong_is_told_in_one_line_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    code, out, err = said(monkeypatch, capsys, "run.yaml", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(words)
    assert err.count("\n") == 1
