"""What a process logged last: for whoever is told of its death, when it can't be asked any more."""

import logging
from collections import deque

KEPT_LINES = 8
_MAX_CHARACTERS = 200  # of a line: an engine's error may hold pages


class LastLines(logging.Handler):
    """Keeps the first line of each of the last records, from every logger that passes them on."""

    def __init__(self) -> None:
        super().__init__(level=logging.WARNING)
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text += f" ({type(record.exc_info[1]).__name__}: {record.exc_info[1]})"
        first = text.strip().partition("\n")[0]
        self._lines.append(f"{record.levelname} {record.name}: {first}"[:_MAX_CHARACTERS])

    @property
    def lines(self) -> tuple[str, ...]:
        """Oldest first."""
        return tuple(self._lines)


def keep_last_lines(*loggers: str) -> LastLines:
    """A handler on the root logger, and on these, which pass nothing on."""
    handler = LastLines()
    for name in ("", *loggers):
        logging.getLogger(name).addHandler(handler)
    return handler
