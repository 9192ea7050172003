"""When each phase ran, as a trace that Perfetto (ui.perfetto.dev) and chrome://tracing open."""

import json
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

MAX_SPANS: Final = 200_000  # the latest ones are kept: a few days of steps, some 20 MB of trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Something that took time, in seconds of one monotonic clock. `lane` names the row it is drawn in."""

    name: str
    start: float
    end: float
    lane: str = ""

    def clipped(self, start: float, end: float) -> tuple[float, float] | None:
        """The part between two moments, or None when there is none."""
        low, high = max(self.start, start), min(self.end, end)
        return (low, high) if low < high else None


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals: time during which at least one of them runs."""
    total, reach = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reach))
        reach = max(reach, end)
    return total


class Timeline:
    """The spans of a run, in memory until they are written."""

    def __init__(self) -> None:
        self._spans: deque[Span] = deque(maxlen=MAX_SPANS)

    @property
    def spans(self) -> Sequence[Span]:
        """All spans that are kept, in the order they were added."""
        return tuple(self._spans)

    def add(self, span: Span) -> None:
        """Keep one span."""
        self._spans.append(span)

    def seconds(self) -> dict[str, float]:
        """Time of each phase over the whole run; moments where it runs twice at once count once."""
        intervals: dict[str, list[tuple[float, float]]] = {}
        for span in self._spans:
            intervals.setdefault(span.name, []).append((span.start, span.end))
        return {name: covered(parts) for name, parts in intervals.items()}

    def write(self, path: Path) -> None:
        """Write the trace in Chrome's JSON format. The earliest span starts at 0."""
        path.write_text(json.dumps({"displayTimeUnit": "ms", "traceEvents": self._events()}), encoding="utf-8")

    def _events(self) -> list[dict[str, Any]]:
        origin = min((span.start for span in self._spans), default=0.0)
        rows = _Rows()
        events = [
            {
                "ph": "X",
                "name": span.name,
                "pid": 1,
                "tid": rows.place(span),
                "ts": round((span.start - origin) * 1e6, 3),
                "dur": round((span.end - span.start) * 1e6, 3),
            }
            for span in sorted(self._spans, key=lambda span: span.start)
        ]
        return [*rows.names(), *events]


class _Rows:
    """Draws spans of one lane that overlap in rows of their own, since a row can only nest them."""

    def __init__(self) -> None:
        self._ends: dict[str, list[float]] = {}  # lane -> when each of its rows is free again
        self._ids: dict[tuple[str, int], int] = {}

    def place(self, span: Span) -> int:
        """The row of `span`; spans come in order of their start."""
        lane = span.lane or span.name
        ends = self._ends.setdefault(lane, [])
        free = next((index for index, end in enumerate(ends) if end <= span.start), len(ends))
        ends[free : free + 1] = [span.end]
        return self._ids.setdefault((lane, free), len(self._ids) + 1)

    def names(self) -> list[dict[str, Any]]:
        """The events that label the rows."""
        return [
            {"ph": "M", "name": "thread_name", "pid": 1, "tid": row, "args": {"name": lane}}
            for (lane, _), row in self._ids.items()
        ]
