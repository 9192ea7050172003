"""What this process is at, for whoever asks from outside while it works, and a count that shows that it gets on."""

import time

_what, _since, _count = "nothing yet", time.monotonic(), 0


def note(what: str) -> None:
    """From here on this process is at `what`."""
    global _what, _since, _count
    _what, _since, _count = what, time.monotonic(), _count + 1


def count() -> int:
    """Notes taken since the start."""
    return _count


def latest() -> str:
    """The newest note, and its age."""
    return f"{_what}, since {time.monotonic() - _since:.1f} s"
