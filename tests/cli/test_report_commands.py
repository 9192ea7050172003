"""`wutong report`, `inspect` and `diff` on a run's folder: quick, without torch, in one line where input is wrong."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.reports.made_runs import learning, make_run

WUTONG = Path(sys.executable).with_name("wutong")


def wutong(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "100", **variables}
    return subprocess.run([WUTONG, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=60)


def test_report_writes_one_file_into_the_runs_folder(tmp_path: Path) -> None:
    place = make_run(tmp_path)
    result = wutong("report", place)
    assert (result.returncode, result.stdout, result.stderr) == (0, f"{place}/report.html\n", "")
    assert (place / "report.html").read_text().startswith("<!doctype html>")
    assert [path.name for path in place.iterdir() if path.name.startswith(".")] == []


def test_reading_runs_needs_neither_torch_nor_ray() -> None:
    code = (
        "import sys, reports.page, reports.comparison; "
        "print({'torch', 'transformers', 'ray', 'vllm'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stdout == "set()\n", result.stderr


def test_a_watched_report_follows_the_run_to_its_end(tmp_path: Path) -> None:
    place = make_run(tmp_path, num_steps=9, stored=(), is_over=False)
    page = tmp_path / "page.html"
    process = subprocess.Popen([WUTONG, "report", place, "--watch", "--output", page], stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: page.exists() and "wutong-reload-seconds" in page.read_text().partition("<style>")[0])
        (place / "timeline.json").write_text('{"traceEvents": []}')
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
    assert "wutong-reload-seconds" not in page.read_text().partition("<style>")[0]


def test_ctrl_c_ends_watching_with_a_page_that_stays(tmp_path: Path) -> None:
    place = make_run(tmp_path, num_steps=9, stored=(), is_over=False)
    page = place / "report.html"
    process = subprocess.Popen([WUTONG, "report", place, "--watch"], stdout=subprocess.DEVNULL)
    try:
        wait_for(page.exists)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
    assert "wutong-reload-seconds" not in page.read_text().partition("<style>")[0]


def wait_for(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_inspect_shows_a_sample_with_all_that_is_known_of_it(tmp_path: Path) -> None:
    result = wutong("inspect", make_run(tmp_path), "--best", "--num", 1)
    assert result.returncode == 0, result.stderr
    for shown in ("161.0, step 20", "is 1?", "yes it is 7<|end|>", "1 (math 1, format 1)", "ok", "gold answer     7"):
        assert shown in result.stdout
    worst = wutong("inspect", make_run(tmp_path, "other"), 1, "--num", 2)
    assert "8.0, step 1" in worst.stdout and "9.0, step 1" in worst.stdout


def test_inspect_colours_tokens_on_a_terminal(tmp_path: Path) -> None:
    place = make_run(tmp_path)
    result = wutong("inspect", place, "--id", "161.0", "--color", "logprob", FORCE_COLOR="1", COLORTERM="truecolor")
    assert "\x1b[30;48;2;232;120;40m<|end|>" in result.stdout
    assert "\x1b[30;48;2;251;228;209m it" in result.stdout


def test_escape_sequences_of_a_model_do_not_reach_the_terminal(tmp_path: Path) -> None:
    texts = ("\x1b]0;title\x07\x1b[2J\x9b31m[bold]red[/bold]\u202e\r",)
    result = wutong("inspect", make_run(tmp_path, texts=texts), "--num", 1)
    assert "␛]0;title␇␛[2J⟨U+009B⟩31m[bold]red[/bold]⟨U+202E⟩␍" in result.stdout
    assert not set("\x1b\x07\x9b\r\u202e") & set(result.stdout)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("inspect", "{run}", "7"), "STEP=7: stored are the samples of 2 steps, 1 to 20"),
        (("inspect", "{run}", "--id", "9.9"), "--id 9.9: not in any stored step"),
        (("inspect", "{run}", "--color", "red"), "choose one of advantage, logprob, ratio, version"),
        (("inspect", "{run}", "--color", "ratio"), "were not stored"),
        (("inspect", "{run}", "--best", "--worst"), "give one of them"),
        (("report", "{run}/trajectories"), "holds no config.yaml"),
        (("report", "{run}", "--output", "/nowhere/page.html"), "there is no folder /nowhere"),
        (("diff", "{run}", "/nowhere"), "holds no config.yaml"),
    ],
)
def test_wrong_input_is_one_line(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    place = make_run(tmp_path)
    result = wutong(*(argument.replace("{run}", str(place)) for argument in arguments))
    assert (result.returncode, len(result.stderr.splitlines()), result.stdout) == (2, 1, ""), result.stderr
    assert said in result.stderr


def test_a_damaged_file_of_samples_is_named_in_one_line(tmp_path: Path) -> None:
    place = make_run(tmp_path)
    path = place / "trajectories" / "step_000020.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    result = wutong("inspect", place)
    assert (result.returncode, len(result.stderr.splitlines()), result.stdout) == (2, 1, ""), result.stderr
    assert str(path) in result.stderr


def test_diff_shows_settings_metrics_and_the_parting(tmp_path: Path) -> None:
    places = make_run(tmp_path, "left"), make_run(tmp_path, "right", seed=7, metrics=parted)
    result = wutong("diff", *places)
    assert result.returncode == 0, result.stderr
    lines = [" ".join(line.replace("│", " ").split()) for line in result.stdout.splitlines()]
    assert "seed 0 7 0" in lines
    assert any(line.startswith(f"reward/std {learning(20)['reward/std']:.6g} @20 0.25 @20") for line in lines)
    assert lines[-1] == "they part at step 5: reward/std"
    assert wutong("diff", places[0], places[0]).stdout.splitlines()[-1].startswith("all numbers of their 20 common")


def parted(step: int) -> dict[str, float]:
    return dict(learning(step)) | ({"reward/std": 0.25} if step >= 5 else {})
