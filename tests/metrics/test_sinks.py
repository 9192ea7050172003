"""Each sink keeps what it is given, resumes cleanly, and none but the record can end a run."""

import io
import json
import logging
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metrics.console_sink import ConsoleSink, summary_line
from metrics.jsonl_sink import JsonlSink
from metrics.sink import BestEffort
from metrics.sinks import SinkOptions, open_sinks
from metrics.tensorboard_sink import TensorBoardSink


def read(path: Path) -> list[dict[str, float | None]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        assert row.pop("time") > 1.7e9
    return rows


def log_steps(path: Path, first: int, last: int) -> None:
    sink = JsonlSink(path, first_step=first)
    for step in range(first, last + 1):
        sink.write(step, {"reward/mean": step / 2})
    sink.close()


def test_each_line_is_on_disk_before_the_next_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    sink = JsonlSink(path)
    sink.write(1, {"reward/mean": 0.5, "policy/loss": math.nan, "policy/ratio_max": math.inf})
    assert read(path) == [{"step": 1, "reward/mean": 0.5, "policy/loss": None, "policy/ratio_max": None}]
    sink.write(2, {"reward/mean": 0.75})
    assert len(read(path)) == 2
    sink.close()


def test_a_resumed_run_repeats_no_step_and_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log_steps(path, 1, 5)
    old = path.read_text()
    log_steps(path, 4, 6)
    assert [row["step"] for row in read(path)] == [1, 2, 3, 4, 5, 6]
    assert (tmp_path / "metrics.jsonl.1").read_text() == old
    log_steps(path, 1, 1)
    assert [row["step"] for row in read(path)] == [1]
    assert sorted(item.name for item in tmp_path.iterdir()) == ["metrics.jsonl", "metrics.jsonl.1", "metrics.jsonl.2"]


def test_a_resume_without_overlap_leaves_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log_steps(path, 1, 2)
    log_steps(path, 3, 3)
    assert [row["step"] for row in read(path)] == [1, 2, 3]
    assert [item.name for item in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("tail", ['{"step": 3, "time": 1', '{"step": 2}', "\x00\x00\n", "[]\n", '{"time": 1}\n'])
def test_a_line_cut_by_a_kill_is_taken_out(tmp_path: Path, tail: str) -> None:
    path = tmp_path / "metrics.jsonl"
    log_steps(path, 1, 2)
    with path.open("a") as file:
        file.write(tail)
    log_steps(path, 3, 3)
    assert [row["step"] for row in read(path)] == [1, 2, 3]


def test_tensorboard_reads_back_what_was_written(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path)
    for step in (1, 2, 3):
        sink.write(step, {"reward/mean": step / 4})
    sink.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("reward/mean")] == [(1, 0.25), (2, 0.5), (3, 0.75)]


def test_tensorboard_hides_the_steps_that_a_resumed_run_repeats(tmp_path: Path) -> None:
    for first, value in ((0, 1.0), (2, 5.0)):
        sink = TensorBoardSink(tmp_path, first_step=first)
        for step in range(max(first, 1), 4):
            sink.write(step, {"reward/mean": value})
        sink.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("reward/mean")] == [(1, 1.0), (2, 5.0), (3, 5.0)]


def test_off_a_terminal_each_step_is_one_line() -> None:
    out = io.StringIO()
    sink = ConsoleSink(num_steps=9, console=Console(file=out, width=20))
    sink.write(1, {"reward/mean": 0.5, "time/step": 2.0, "mismatch/max_abs": 1.0})
    sink.write(2, {"reward/mean": math.nan})
    sink.close()
    assert out.getvalue() == "step 1/9  reward 0.500  2.0 s\nstep 2/9  reward/mean nan\n"


def test_on_a_terminal_the_bar_ends_with_the_last_numbers() -> None:
    out = io.StringIO()
    sink = ConsoleSink(num_steps=2, console=Console(file=out, width=120, force_terminal=True))
    sink.write(1, {"reward/mean": 0.125})
    sink.write(2, {"reward/mean": 0.25})
    sink.close()
    shown = out.getvalue()
    assert "2/2" in shown
    assert "reward 0.250" in shown


def test_the_summary_keeps_its_reading_order() -> None:
    values = {"time/step": 1.25, "response/length_mean": 40.4, "reward/mean": 0.5, "group/equal_fraction": 0.25}
    assert summary_line(values) == "reward 0.500  length 40  equal groups 25%  1.2 s"


class Failing:
    """A sink whose service is down."""

    def __init__(self) -> None:
        self.num_calls = 0

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self.num_calls += 1
        raise ConnectionError("503")

    def close(self) -> None:
        self.num_calls += 1


def test_a_failing_sink_is_told_once_and_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    inner = Failing()
    sink = BestEffort("W&B", inner)
    sink.write(1, {})
    sink.write(2, {})
    sink.close()
    assert inner.num_calls == 1
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("W&B failed and is left out from here on")


def options(folder: Path, wandb_project: str | None) -> SinkOptions:
    return SinkOptions(
        folder=folder, run_name="try", first_step=1, num_steps=2, wandb_project=wandb_project, config={"seed": 0}
    )


def test_a_missing_wandb_is_told_at_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    with pytest.raises(ValueError, match="pip install wandb"):
        open_sinks(options(tmp_path, "project"))


FAKE_WANDB = """
calls = []
def init(**settings):
    calls.append(settings)
    if settings["project"] == "down":
        raise OSError("no route")
    return Run()
class Run:
    def log(self, values, step):
        calls.append((step, values))
    def finish(self):
        calls.append("finish")
"""


@pytest.fixture
def wandb_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """The calls that a stand-in for the service's client receives."""
    folder = tmp_path / "packages"
    folder.mkdir()
    (folder / "wandb.py").write_text(FAKE_WANDB)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    import wandb  # pyright: ignore[reportMissingImports]

    yield wandb.calls
    sys.modules.pop("wandb", None)


def test_wandb_gets_config_steps_and_the_end(tmp_path: Path, wandb_calls: list[object]) -> None:
    sinks = open_sinks(options(tmp_path, "project"))
    for sink in sinks:
        sink.write(1, {"reward/mean": 0.5})
        sink.close()
    settings = {"project": "project", "name": "try", "id": "try", "dir": str(tmp_path), "config": {"seed": 0}}
    assert wandb_calls == [settings | {"resume": "allow"}, (1, {"reward/mean": 0.5}), "finish"]


def test_an_unreachable_wandb_ends_nothing(tmp_path: Path, wandb_calls: list[object]) -> None:
    sinks = open_sinks(options(tmp_path, "down"))
    for step in (1, 2):
        for sink in sinks:
            sink.write(step, {"reward/mean": 0.5})
    for sink in sinks:
        sink.close()
    assert len(wandb_calls) == 1
    assert [row["step"] for row in read(tmp_path / "metrics.jsonl")] == [1, 2]
