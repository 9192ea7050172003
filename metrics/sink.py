"""What a sink of metrics is, and one whose failures do no harm."""

import logging
from collections.abc import Callable, Mapping
from typing import Protocol

logger = logging.getLogger(__name__)


class Sink(Protocol):
    """Takes the metrics of each step."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Keep the values of one step. Values may be NaN or infinite."""
        ...

    def close(self) -> None:
        """Nothing follows; all that was written is on its way."""
        ...


class BestEffort:
    """A sink whose failures are told once and never end a run; after the first it is left alone."""

    def __init__(self, name: str, sink: Sink) -> None:
        self._name = name
        self._sink = sink
        self._is_broken = False

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Pass the values on, unless the sink has failed before."""
        self._attempt(lambda: self._sink.write(step, values))

    def close(self) -> None:
        """Close the sink, unless it has failed before."""
        self._attempt(self._sink.close)

    def _attempt(self, call: Callable[[], None]) -> None:
        if self._is_broken:
            return
        try:
            call()
        except Exception as error:  # noqa: BLE001 - a network client may raise anything, and training goes on
            self._is_broken = True
            logger.warning("%s failed and is left out from here on; metrics.jsonl has all: %r", self._name, error)
