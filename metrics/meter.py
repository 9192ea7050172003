"""The stopwatch of a run: where each step's time goes, and one door for all metrics."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from metrics.names import PHASES, metric
from metrics.sink import Sink
from metrics.timeline import Span, Timeline, covered


class Meter:
    """Times phases, and hands each step's metrics to the sinks.

    Phases may overlap, within one coroutine or over several. A phase counts for the step in which it
    ends, with the part of it that lies in that step.
    """

    def __init__(self, sinks: Sequence[Sink] = (), clock: Callable[[], float] = time.monotonic) -> None:
        self.timeline = Timeline()
        self._sinks = tuple(sinks)
        self._clock = clock
        self._step_start = clock()
        self._step_spans: list[Span] = []
        self._under_way: list[str] = []

    @property
    def phase_now(self) -> str:
        """The phase that began last of those under way; "other" when none is."""
        return self._under_way[-1] if self._under_way else "other"

    def now(self) -> float:
        """The time by the meter's clock, to be given to `span`."""
        return self._clock()

    def begin_step(self) -> None:
        """A step starts now."""
        self._step_start = self._clock()
        self._step_spans = []

    def end_step(self) -> dict[str, float]:
        """Seconds and share of each phase since `begin_step`, and what no phase covers as `other`."""
        start, end = self._step_start, self._clock()
        length = end - start
        parts: dict[str, list[tuple[float, float]]] = {}
        for span in self._step_spans:
            if part := span.clipped(start, end):
                parts.setdefault(span.name, []).append(part)
        seconds = {phase: covered(intervals) for phase, intervals in parts.items()}
        seconds["other"] = max(0.0, length - covered(part for intervals in parts.values() for part in intervals))
        shares = {f"share/{phase}": value / length for phase, value in seconds.items()} if length > 0 else {}
        return {"time/step": length, **{f"time/{phase}": value for phase, value in seconds.items()}, **shares}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time what runs inside the `with`, also when it raises."""
        start = self._clock()
        try:
            with self.under_way(name):
                yield
        finally:
            self.span(name, start, self._clock())

    @contextmanager
    def under_way(self, name: str) -> Iterator[None]:
        """Inside, `phase_now` is this phase; its time is told afterwards, by `span`."""
        _check_phase(name)  # before the work, not after it
        self._under_way.append(name)
        try:
            yield
        finally:
            self._under_way.remove(name)

    def span(self, name: str, start: float, end: float) -> None:
        """Count a phase that was timed elsewhere, by the same clock: see `now`."""
        _check_phase(name)
        span = Span(name=name, start=start, end=end)
        self._step_spans.append(span)
        self.timeline.add(span)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Hand one step's metrics, if there are any, to every sink. ValueError for a name outside the table."""
        for name in values:
            metric(name)
        numbers = {name: float(value) for name, value in values.items()}
        for sink in self._sinks if numbers else ():
            sink.write(step, numbers)

    def close(self) -> None:
        """Close every sink; all that was logged is then on disk."""
        for sink in self._sinks:
            sink.close()


def _check_phase(name: str) -> None:
    if name not in PHASES:
        raise ValueError(f"phase {name!r} is not in metrics/names.py; choose one of {', '.join(PHASES)}")
