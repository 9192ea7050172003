"""When each phase ran, and what each actor did, as a trace that Perfetto (ui.perfetto.dev) and chrome://tracing open.

Its times are those of `ray timeline`, microseconds since 1970, so that the events of both can stand in one file.
"""

import json
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

MAX_SPANS: Final = 200_000  # the latest ones are kept, of phases and of actors: days of steps, some 40 MB of trace
DRIVER: Final = "driver"
_FIRST_ID: Final = 10_000  # `ray timeline` numbers its nodes from 0


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


_of_actors: deque[Span] = deque(maxlen=MAX_SPANS)


def actor_span(actor: str, name: str, start: float) -> None:
    """`actor`, such as "rollout-0", did something from `start`, by time.monotonic() of the driver, until now."""
    _of_actors.append(Span(name=name, start=start, end=time.monotonic(), lane=actor))


class Timeline:
    """The spans of a run, in memory until they are written; with those of its actors since it was made."""

    def __init__(self) -> None:
        self._spans: deque[Span] = deque(maxlen=MAX_SPANS)
        self._began = time.monotonic()

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
        """Write the trace in Chrome's JSON format. Phases must have been timed by time.monotonic()."""
        path.write_text(json.dumps({"displayTimeUnit": "ms", "traceEvents": self._events()}), encoding="utf-8")

    def _events(self) -> list[dict[str, Any]]:
        to_1970 = round((time.time() - time.monotonic()) * 1e6)
        rows = _Rows()
        actors = [span for span in _of_actors if span.start >= self._began]
        events = []
        for span in sorted([*self._spans, *actors], key=lambda span: span.start):
            group, row = rows.place(span)
            events.append(
                {
                    "ph": "X",
                    "cat": "actor" if span.lane else "phase",
                    "name": span.name,
                    "pid": group,
                    "tid": row,
                    "ts": to_1970 + round(span.start * 1e6),
                    "dur": round(span.end * 1e6) - round(span.start * 1e6),
                }
            )
        return [*rows.names(), *events]


class _Rows:
    """Draws spans of one lane that overlap in rows of their own, since a row can only nest them.

    The phases are one group of rows, those of the driver, and the actors of a kind are another.
    """

    def __init__(self) -> None:
        self._ends: dict[str, list[float]] = {}  # lane -> when each of its rows is free again
        self._ids: dict[tuple[int, str, int], int] = {}
        self._groups: dict[str, int] = {}

    def place(self, span: Span) -> tuple[int, int]:
        """Group and row of `span`; spans come in order of their start."""
        lane = span.lane or span.name
        ends = self._ends.setdefault(lane, [])
        free = next((index for index, end in enumerate(ends) if end <= span.start), len(ends))
        ends[free : free + 1] = [span.end]
        group = span.lane.rpartition("-")[0] or DRIVER
        pid = self._groups.setdefault(group, _FIRST_ID + len(self._groups))
        key = (pid, lane, free)
        return pid, self._ids.setdefault(key, _FIRST_ID + len(self._ids))

    def names(self) -> list[dict[str, Any]]:
        """The events that label groups and rows."""
        groups = [_name("process_name", pid, 0, group) for group, pid in self._groups.items()]
        return [*groups, *(_name("thread_name", pid, row, lane) for (pid, lane, _), row in self._ids.items())]


def _name(kind: str, pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": name}}
