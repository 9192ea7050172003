"""Phases, their shares of a step, and the door to the sinks."""

import json
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics.meter import Meter
from metrics.names import PHASES
from metrics.timeline import Span, Timeline, actor_span, covered


class Clock:
    """Time that only moves when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Recorder:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, Mapping[str, float]]] = []
        self.is_closed = False

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self.rows.append((step, values))

    def close(self) -> None:
        self.is_closed = True


def test_a_step_is_its_phases_and_the_rest() -> None:
    clock = Clock()
    meter = Meter(clock=clock)
    meter.begin_step()
    with meter.phase("train"):
        clock.now += 3
    clock.now += 1
    with meter.phase("sync"):
        clock.now += 2
    with meter.phase("train"):
        clock.now += 2
    assert meter.end_step() == {
        "time/step": 8.0,
        "time/train": 5.0,
        "time/sync": 2.0,
        "time/other": 1.0,
        "share/train": 5 / 8,
        "share/sync": 2 / 8,
        "share/other": 1 / 8,
    }


def test_overlapping_phases_leave_no_negative_rest() -> None:
    clock = Clock()
    meter = Meter(clock=clock)
    meter.begin_step()
    meter.span("generate", 100, 107)
    meter.span("train", 103, 109)
    clock.now = 110
    values = meter.end_step()
    assert (values["time/generate"], values["time/train"], values["time/other"]) == (7.0, 6.0, 1.0)


def test_only_the_part_inside_the_step_counts() -> None:
    clock = Clock()
    meter = Meter(clock=clock)
    meter.span("sync", 90, 100)
    meter.begin_step()
    meter.span("generate", 95, 104)
    clock.now = 105
    assert meter.end_step() == {
        "time/step": 5.0,
        "time/generate": 4.0,
        "time/other": 1.0,
        "share/generate": 0.8,
        "share/other": 0.2,
    }
    meter.begin_step()
    assert meter.end_step() == {"time/step": 0.0, "time/other": 0.0}


def test_a_phase_that_raises_is_counted() -> None:
    clock = Clock()
    meter = Meter(clock=clock)
    meter.begin_step()
    with pytest.raises(KeyError), meter.phase("save"):
        clock.now += 4
        raise KeyError
    assert meter.end_step()["time/save"] == 4.0


def test_an_unknown_phase_is_refused_before_the_work() -> None:
    with pytest.raises(ValueError, match="phase 'trian' is not in"), Meter().phase("trian"):
        pytest.fail("the work was started")


def test_the_phase_that_began_last_is_the_one_the_run_is_in() -> None:
    meter = Meter()
    seen = [meter.phase_now]
    with meter.under_way("generate"):
        seen.append(meter.phase_now)
        with meter.phase("sync"):
            seen.append(meter.phase_now)
        seen.append(meter.phase_now)
    seen.append(meter.phase_now)
    assert seen == ["other", "generate", "sync", "generate", "other"]
    assert [span.name for span in meter.timeline.spans] == ["sync"]  # what is under way is timed by others


def test_metrics_reach_every_sink_and_unknown_names_none() -> None:
    sinks = [Recorder(), Recorder()]
    meter = Meter(sinks)
    meter.log(0, {})
    meter.log(1, {"reward/mean": 1})
    with pytest.raises(ValueError, match="reward_mean"):
        meter.log(2, {"reward/mean": 1, "reward_mean": 1})
    meter.close()
    assert [sink.rows for sink in sinks] == [[(1, {"reward/mean": 1.0})]] * 2
    assert all(sink.is_closed for sink in sinks)


INTERVALS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda ends: (min(ends), max(ends))))


@given(INTERVALS)
def test_covered_time_is_that_of_the_union(intervals: list[tuple[int, int]]) -> None:
    seconds = {second for start, end in intervals for second in range(start, end)}
    assert covered(intervals) == len(seconds)


@given(st.lists(st.tuples(st.sampled_from(sorted(PHASES)), st.integers(0, 30), st.integers(0, 9)), min_size=1))
def test_no_two_spans_of_a_trace_share_a_row_at_the_same_time(spans: list[tuple[str, int, int]]) -> None:
    timeline = Timeline()
    for name, start, length in spans:
        timeline.add(Span(name=name, start=start, end=start + length))
    events = [event for event in timeline._events() if event["ph"] == "X"]
    assert len(events) == len(spans)
    for row in {event["tid"] for event in events}:
        on_row = sorted((event["ts"], event["ts"] + event["dur"]) for event in events if event["tid"] == row)
        assert all(first[1] <= second[0] for first, second in pairwise(on_row))


def test_the_seconds_of_a_run_are_those_of_all_its_steps() -> None:
    timeline = Timeline()
    for name, start, end in [("train", 1, 3), ("sync", 3, 4), ("train", 6, 9), ("train", 8, 10)]:
        timeline.add(Span(name=name, start=start, end=end))
    assert timeline.seconds() == {"train": 6.0, "sync": 1.0}


def test_a_trace_is_written_in_chrome_s_format(tmp_path: Path) -> None:
    clock = Clock()
    meter = Meter(clock=clock)
    with meter.phase("train"):
        clock.now += 0.5
    meter.timeline.write(tmp_path / "trace.json")
    trace = json.loads((tmp_path / "trace.json").read_text())
    to_1970 = trace["traceEvents"][-1].pop("ts")
    assert trace == {
        "displayTimeUnit": "ms",
        "traceEvents": [
            {"ph": "M", "name": "process_name", "pid": 10000, "tid": 0, "args": {"name": "driver"}},
            {"ph": "M", "name": "thread_name", "pid": 10000, "tid": 10000, "args": {"name": "train"}},
            {"ph": "X", "cat": "phase", "name": "train", "pid": 10000, "tid": 10000, "dur": 500000},
        ],
    }
    assert to_1970 > 1.7e15  # microseconds since 1970, as in `ray timeline`


def test_actors_of_a_kind_are_one_group_of_rows(tmp_path: Path) -> None:
    actor_span("rollout-0", "load", time.monotonic())  # of an earlier run in this process
    meter = Meter()
    begun = time.monotonic()
    with meter.phase("train"):
        for actor, did in (("trainer-0", "update"), ("rollout-0", "sample"), ("rollout-1", "sample")):
            actor_span(actor, did, begun)
    meter.timeline.write(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    groups = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    rows = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    spans = [(groups[e["pid"]], rows[e["tid"]], e["cat"], e["name"]) for e in events if e["ph"] == "X"]
    assert sorted(spans) == [
        ("driver", "train", "phase", "train"),
        ("rollout", "rollout-0", "actor", "sample"),
        ("rollout", "rollout-1", "actor", "sample"),
        ("trainer", "trainer-0", "actor", "update"),
    ]
