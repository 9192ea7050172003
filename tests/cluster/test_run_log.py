"""The log in a run's folder: what was logged, the steps, and how it ended."""

import logging
import re
from pathlib import Path

import pytest

from cluster.run_log import kept_log, last_lines
from metrics.log_sink import LogSink

TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"


def test_warnings_steps_and_the_error_that_ends_a_run_are_kept_over_several_starts(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    with kept_log(path) as log:
        log.note("begun")
        logging.getLogger("cluster.somewhere").warning("rollout-%d is slow", 1)
        LogSink(path, num_steps=3).write(1, {"reward/mean": 0.5})
    logging.getLogger("cluster.somewhere").warning("after the end")
    with pytest.raises(ValueError, match="no room"), kept_log(path):
        raise ValueError("no room")
    said = ["INFO begun", "WARNING rollout-1 is slow", "INFO step 1/3  reward 0.500", "ERROR ended: no room"]
    assert re.fullmatch("".join(f"{TIME} {text}\n" for text in said), last_lines(path, 0))
    assert re.fullmatch(f"{TIME} {said[3]}\n", last_lines(path, 1))


def test_a_full_disk_neither_ends_a_run_nor_floods_the_console(capsys: pytest.CaptureFixture[str]) -> None:
    with kept_log(Path("/dev/full")) as log:
        log.note("lost")
    assert capsys.readouterr().err == ""


def test_a_folder_without_a_log_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no run has kept a log there; RUN is a run's folder"):
        last_lines(tmp_path / "run.log", 0)
