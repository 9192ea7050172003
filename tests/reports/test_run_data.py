"""A run's folder is read as it stands, also in the middle of a line."""

import json
from pathlib import Path

import pytest

from reports.run_data import read_run, read_runs
from tests.reports.made_runs import learning, make_run


def test_every_number_of_the_record_is_there(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path))
    for line in (run.folder / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        step, _ = row.pop("step"), row.pop("time")
        assert {name: series.at(step) for name, series in run.series.items() if step in series.steps} == row
    assert run.last_step == 20
    assert list(run.stored_steps()) == [1, 20]


def test_a_line_that_is_being_written_waits_and_a_broken_one_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = make_run(tmp_path, num_steps=2, stored=())
    with (place / "metrics.jsonl").open("a") as file:
        file.write('nonsense\n{"step": 3, "time": 1.0, "reward/mean": 0.25}\n{"step": 4, "ti')
    run = read_run(place)
    assert run.series["reward/mean"].steps == (1, 2, 3)
    assert run.series["reward/std"].steps == (1, 2)
    assert [record.getMessage() for record in caplog.records] == [
        f"{place}/metrics.jsonl: left out a broken line: 'nonsense\\n'"
    ]


def test_the_last_line_of_a_step_counts(tmp_path: Path) -> None:
    place = make_run(tmp_path, num_steps=2, stored=())
    with (place / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "time": 1.0, "reward/mean": 0.5, "policy/loss": null}\n')
    run = read_run(place)
    assert run.series["reward/mean"].by_step == {1: learning(1)["reward/mean"], 2: 0.5}
    assert run.series["policy/loss"].values == (None,)
    assert run.series["policy/loss"].finite == ()


def test_a_folder_that_is_no_run_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no config\.yaml; RUN is a run's folder"):
        read_run(tmp_path)


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    places = [make_run(tmp_path / parent, "same", stored=()) for parent in ("left", "right")]
    assert [run.label for run in read_runs(places)] == ["left/same", "right/same"]


def test_a_run_is_over_when_its_timeline_is_newer_than_its_metrics(tmp_path: Path) -> None:
    place = make_run(tmp_path, stored=(), is_over=False)
    assert not read_run(place).is_over()
    (place / "timeline.json").write_text('{"traceEvents": [{"name": "ge')
    assert not read_run(place).is_over()
    (place / "timeline.json").write_text('{"traceEvents": []}')
    assert read_run(place).is_over()
