"""Axes have round ticks, and a thinned curve keeps its peaks and its gaps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.scale import step_axis, thinned, tick_label, ticks, value_axis, whole_ticks


@given(st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=30))
def test_every_value_lies_on_the_axis_and_some_ticks_do(values: list[float]) -> None:
    axis = value_axis(values, begin=100, end=0)
    assert all(-1e-6 <= axis.place(value) <= 100 + 1e-6 for value in values)
    assert 1 <= len(ticks(axis)) <= 7


def test_ticks_are_round() -> None:
    assert ticks(value_axis([0.0, 0.93], begin=0, end=1)) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    assert whole_ticks(step_axis([1, 40], begin=0, end=1)) == [10, 20, 30, 40]
    assert whole_ticks(step_axis([1, 3], begin=0, end=1)) == [1, 2, 3]


@pytest.mark.parametrize(
    ("value", "unit", "label"),
    [
        (0.25, "share", "25 %"), (12_000, "tokens", "12k"), (2_500_000, "", "2.5M"), (1e-4, "nats", "1e-4"),
        (0.30000000000000004, "", "0.3"), (0.0, "nats", "0"), (-3.5, "", "-3.5"),
    ],
)  # fmt: skip
def test_labels_are_short(value: float, unit: str, label: str) -> None:
    assert tick_label(value, unit) == label


@given(st.lists(st.one_of(st.none(), st.floats(-1e9, 1e9)), min_size=1, max_size=500), st.integers(10, 100))
def test_thinning_keeps_extremes_gaps_and_ends(values: list[float | None], most: int) -> None:
    points = list(enumerate(values))
    kept = thinned(points, most)
    assert set(kept) <= set(points) and kept == sorted(kept, key=lambda point: point[0])
    assert {kept[0], kept[-1]} == {points[0], points[-1]}
    finite, left = [v for v in values if v is not None], [v for _, v in kept if v is not None]
    assert (min(finite, default=0), max(finite, default=0)) == (min(left, default=0), max(left, default=0))
    assert [p for p in kept if p[1] is None] == [p for p in points if p[1] is None]
    assert len(left) <= most + 3
