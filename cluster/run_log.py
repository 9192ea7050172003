"""What a run has to say, in `run.log` of its folder: each start, step, warning and end, with its time."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from metrics.safe_log import SafeFormatter


class _QuietHandler(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """A full disk neither ends what it would have told of, nor floods the console."""


class RunLog:
    """Appends to the file, beside the steps that metrics/log_sink.py writes there."""

    def __init__(self, handler: logging.Handler) -> None:
        self._handler = handler

    def note(self, text: str, level: int = logging.INFO) -> None:
        """One line that is in the file alone."""
        self._handler.handle(logging.LogRecord("run", level, "", 0, text, None, None))


@contextlib.contextmanager
def kept_log(path: Path) -> Iterator[RunLog]:
    """Inside, all that is logged goes to the file too; so does the error that ends it."""
    handler = _QuietHandler(path, encoding="utf-8")
    handler.setFormatter(SafeFormatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    log = RunLog(handler)
    logging.getLogger().addHandler(handler)
    try:
        yield log
    except BaseException as error:
        log.note(f"ended: {str(error) or type(error).__name__}", logging.ERROR)
        raise
    finally:
        logging.getLogger().removeHandler(handler)
        with contextlib.suppress(OSError):
            handler.close()


def last_lines(path: Path, count: int) -> str:
    """The newest `count` lines; all for 0. ValueError where no run has kept a log."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    except OSError:
        raise ValueError(f"{path}: no run has kept a log there; RUN is a run's folder, such as runs/my-run") from None
    return "".join(lines[-count:] if count else lines)
