"""Keeps a user's modules from taking the place of ours in the workers of a job.

A submitted job's folder stands first on the path of all its processes, so a `rewards.py` in it would be imported
by every worker in place of our package.
"""

import sys
from collections.abc import Callable
from pathlib import Path

_ROOT = str(Path(__file__).resolve().parents[1])


def ours_first() -> Callable[[], None]:
    """What Ray is to run at the start of each worker (`worker_process_setup_hook`).

    A nested function travels to the worker by value: importing it there, by name, could find the wrong module.
    """
    root = _ROOT

    def setup() -> None:
        sys.path.insert(0, root)

    return setup
