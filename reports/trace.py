"""One step of a run's timeline, lane by lane."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from reports.stacks import phase_colour

logger = logging.getLogger(__name__)

# What a step begins with: waiting for its samples, or for its data.
_BEGINNINGS = ("generate", "data")


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSpan:
    """Something that took time, in seconds since the step began."""

    name: str
    start: float
    end: float
    colour: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One row of the timeline."""

    name: str
    spans: tuple[TraceSpan, ...]

    def __str__(self) -> str:
        return f"{self.name} {sum(span.end - span.start for span in self.spans):.4g} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTrace:
    """What ran during one step."""

    seconds: float
    lanes: tuple[Lane, ...]


def step_trace(path: Path) -> StepTrace | None:
    """The step of median length of a `timeline.json`; None without a whole file or a step.

    A step lasts from one wait for samples, or data, to the next.
    """
    if not path.is_file():
        return None
    try:
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    except ValueError as error:
        logger.warning("%s: not a whole timeline (%s); left out", path, error)
        return None
    spans = [event for event in events if event.get("ph") == "X" and event.get("cat", "phase") == "phase"]
    begins = next((starts for name in _BEGINNINGS if len(starts := _starts(spans, name)) > 1), None)
    if begins is None:
        return None
    steps = sorted(pairwise(begins), key=lambda step: (step[1] - step[0], step[0]))
    begin, end = steps[(len(steps) - 1) // 2]
    names = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    return StepTrace(seconds=(end - begin) / 1e6, lanes=_lanes(spans, names, begin, end))


def _starts(spans: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return sorted(span["ts"] for span in spans if span["name"] == name)


def _lanes(spans: Sequence[Mapping[str, Any]], names: Mapping[int, str], begin: float, end: float) -> tuple[Lane, ...]:
    """What lies between two moments, cut at both, in the order in which lanes first have something."""
    lanes: dict[int, list[TraceSpan]] = {}
    for span in sorted(spans, key=lambda span: span["ts"]):
        low, high = max(span["ts"], begin), min(span["ts"] + span["dur"], end)
        if low < high:
            cut = TraceSpan(
                name=span["name"],
                start=(low - begin) / 1e6,
                end=(high - begin) / 1e6,
                colour=phase_colour(span["name"]),
            )
            lanes.setdefault(span["tid"], []).append(cut)
    return tuple(Lane(name=names.get(row, str(row)), spans=tuple(cuts)) for row, cuts in lanes.items())
