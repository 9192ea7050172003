"""The contest's figures: what is read of a run, the ratios and tables made of it, and what counts as worse."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.contest.cases import CASES
from benchmarks.contest.contestants import Start, start_of
from benchmarks.contest.machine import processor
from benchmarks.contest.measured import Measured, Steps, load, read, save, summary
from benchmarks.contest.stored import load_ratios, store_ratios, worse
from benchmarks.contest.table import page, ratios, table
from benchmarks.contest.work import rows_per_micro_batch
from benchmarks.quick import settle

FLOOR = Measured(
    case="1m-short",
    contestant="floor",
    round=0,
    seconds=2.0,
    tokens_per_second=100.0,
    length=25.0,
    parts={"generate": 0.5, "score": 0.0, "logprobs": 0.0, "train": 1.4, "sync": 0.1, "other": 0.0},
    cpu_seconds=3.0,
    peak_gib=2.5,
    first_step=9.0,
    rewards=[0.25, 0.5],
    elapsed=[9.0, 11.0],
    machine="2026-01-01, a machine",
)
NAMED: dict[str, str | int] = {"case": "1m-short", "contestant": "floor", "round": 0, "machine": "a machine"}


def test_a_line_is_read_when_it_is_whole_and_of_a_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics"
    start = Start(command=[], metrics=path, keys={"seconds": "time/step", "sync": "time/sync"})
    assert read(start) == []
    path.write_text('{"step": 0}\na warning\n{"step": 1, "time/step": 2.0}\n{"step": 2, "time/st')
    assert read(start) == [{"seconds": 2.0, "sync": 0.0}]


def test_a_summary_leaves_the_first_steps_out_of_medians_alone() -> None:
    seconds = [9.0, 8.0, 1.0, 3.0, 2.0]
    lines = [{"seconds": each, "length": 10.0, "reward": 0.5, "train": each / 2} for each in seconds]
    steps = Steps(lines=lines, cpu_seconds=4.0, peak_bytes=2**31, first_step=30.0)
    found = summary(steps, NAMED, num_samples=4)
    assert (found.seconds, found.tokens_per_second, found.parts["train"], found.parts["sync"]) == (2.0, 20.0, 1.0, 0.0)
    assert (found.cpu_seconds, found.peak_gib) == (4.0, 2.0)
    assert found.rewards == [0.5] * 5
    assert found.elapsed == [30.0, 38.0, 39.0, 42.0, 44.0]


def test_a_ratio_is_taken_within_a_round() -> None:
    found = [
        *(replace(FLOOR, round=place, seconds=each) for place, each in enumerate((1.0, 2.0, 10.0))),
        *(replace(FLOOR, contestant="trl", round=place, seconds=each) for place, each in enumerate((2.0, 3.0, 30.0))),
        replace(FLOOR, contestant="trl", round=3, seconds=99.0),
    ]
    assert ratios(found) == {"floor": 1.0, "trl": 2.0}
    assert ratios(found, "trl") == {"floor": 0.5, "trl": 1.0}


def test_a_table_has_a_line_for_each_contestant() -> None:
    found = [FLOOR, replace(FLOOR, contestant="trl_vllm", seconds=5.0), replace(FLOOR, contestant="late", round=1)]
    assert table(found).splitlines()[2:] == [
        "| floor | 2.00 | 1.00 | 0.40 | 100 | 0.50 | 0.00 | 0.00 | 1.40 | 0.10 | 0.00 | 3.0 | 2.50 | 9 | 1 |",
        "| trl_vllm | 5.00 | 2.50 | 1.00 | 100 | 0.50 | 0.00 | 0.00 | 1.40 | 0.10 | 0.00 | 3.0 | 2.50 | 9 | 1 |",
        "| late | 2.00 | - | - | 100 | 0.50 | 0.00 | 0.00 | 1.40 | 0.10 | 0.00 | 3.0 | 2.50 | 9 | 1 |",
    ]


def test_a_page_names_each_case_and_its_machines() -> None:
    text = page([FLOOR, replace(FLOOR, case="10m-tailed", length=40.0), replace(FLOOR, machine="another")])
    assert "## 1m-short\n2026-01-01, a machine\nanother; 25 tokens a response\n" in text
    assert "## 10m-tailed\n2026-01-01, a machine; 40 tokens a response\n" in text


def test_what_was_measured_comes_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "results" / "steps.json"
    assert load(path) == []
    save(path, [FLOOR])
    assert load(path) == [FLOOR]


@pytest.mark.parametrize(
    ("ratio", "lines"),
    [
        (1.14, []),
        (0.5, []),
        (1.15, ["synchronous: 1.15 of the floor's step, 1.00 was kept: 15% worse"]),
        (1.3, ["synchronous: 1.30 of the floor's step, 1.00 was kept: 30% worse"]),
    ],
)
def test_fifteen_percent_over_the_kept_ratio_is_worse(ratio: float, lines: list[str]) -> None:
    assert worse({"synchronous": 1.0, "not measured": 1.0}, {"synchronous": ratio, "not kept": 9.0}) == lines


def test_ratios_are_kept_without_the_floors(tmp_path: Path) -> None:
    path = tmp_path / "ratios.json"
    store_ratios(path, {"floor": 1.0, "synchronous": 1.23456}, "a machine")
    assert json.loads(path.read_text()) == {"machine": "a machine", "ratios": {"synchronous": 1.235}}
    assert load_ratios(path) == {"synchronous": 1.235}


def test_a_missing_file_of_ratios_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="--store"):
        load_ratios(tmp_path / "ratios.json")


def test_a_quick_run_passes_what_it_kept_and_fails_what_is_worse(tmp_path: Path) -> None:
    path = tmp_path / "ratios.json"
    same = [FLOOR, replace(FLOOR, contestant="synchronous", seconds=2.2)]
    assert settle(same, path, store=True) == f"{path} has this machine's ratios"
    assert settle(same, path, store=False) == f"no ratio is 15% worse than {path} has it"
    with pytest.raises(SystemExit, match="36% worse"):
        settle([FLOOR, replace(FLOOR, contestant="synchronous", seconds=3.0)], path, store=False)


def test_a_micro_batch_fits_when_every_sample_is_longest() -> None:
    assert rows_per_micro_batch(512, longest=60, limit=8192) == 128
    assert rows_per_micro_batch(512, longest=10, limit=8192) == 512
    assert rows_per_micro_batch(6, longest=9000, limit=8192) == 3


def test_an_unknown_contestant_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="choose from floor, synchronous"):
        start_of("nobody", "recipe", [], tmp_path)


def test_a_tailed_case_reads_its_own_problems(tmp_path: Path) -> None:
    assert CASES["1m-short"].settings(tmp_path) == [f"model.path={tmp_path}/1m/short/export"]
    assert f"data.train={tmp_path}/mixed.parquet" in CASES["10m-tailed"].settings(tmp_path)


def test_a_processor_has_the_name_that_the_system_gives(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    assert processor(path) == "unknown processor"
    path.write_text("processor\t: 0\nmodel name\t: One of a kind\n")
    assert processor(path) == "One of a kind"
