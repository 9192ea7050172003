"""What is logged, fit for a terminal and for a file that others read: no secrets, nothing that hides or controls."""

import logging

from configs.redaction import without_secrets
from metrics.text import visible

MAX_CHARACTERS = 20_000  # a traceback through several libraries, and no more


def safe(text: str) -> str:
    """`text` as it may be shown to people: it may hold what a model wrote, or an error that quotes a secret."""
    return visible(without_secrets(text), MAX_CHARACTERS)


class SafeFormatter(logging.Formatter):
    """Formats records, tracebacks included, and makes the whole safe."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        return safe(super().format(record))
