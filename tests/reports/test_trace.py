"""One step out of a timeline: the one of median length, cut at both ends."""

from pathlib import Path

from metrics.timeline import Span, Timeline
from reports.trace import step_trace


def written(folder: Path, *spans: tuple[str, float, float]) -> Path:
    timeline = Timeline()
    for name, start, end in spans:
        timeline.add(Span(name=name, start=start, end=end))
    timeline.write(folder / "timeline.json")
    return folder / "timeline.json"


def test_the_step_of_median_length_is_shown_lane_by_lane(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        ("evaluate", 0, 5), ("generate", 5, 6), ("train", 6, 7),  # 2 s
        ("generate", 7, 8), ("train", 8, 10),  # 3 s
        ("generate", 10, 11), ("train", 11, 19),  # 9 s
        ("generate", 19, 20), ("save", 9, 12),
    )  # fmt: skip
    trace = step_trace(path)
    assert trace is not None and trace.seconds == 3
    assert [(lane.name, [(s.start, s.end) for s in lane.spans]) for lane in trace.lanes] == [
        ("generate", [(0, 1)]),
        ("train", [(1, 3)]),
        ("save", [(2, 3)]),
    ]


def test_supervised_steps_begin_with_their_data(tmp_path: Path) -> None:
    trace = step_trace(written(tmp_path, ("data", 0, 1), ("train", 1, 4), ("data", 4, 5)))
    assert trace is not None and trace.seconds == 4


def test_without_a_whole_step_there_is_no_picture(tmp_path: Path) -> None:
    assert step_trace(tmp_path / "timeline.json") is None
    assert step_trace(written(tmp_path, ("generate", 0, 1))) is None
    (tmp_path / "timeline.json").write_text('{"traceEvents": [{"na')
    assert step_trace(tmp_path / "timeline.json") is None
