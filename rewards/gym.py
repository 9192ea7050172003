"""The reasoning-gym reward: the package's own verdict about the answer that the response marks."""

import contextlib
import functools
import importlib
import json
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from configs.schema.gym_tasks import GYM_TASKS
from rewards.contract import RewardError, RewardInput, Score, Status
from rewards.markers import MARKERS, final_text, find_answer

PACKAGE = "reasoning_gym"


def warm_up() -> None:
    """Import the package where it is installed, so that no verdict waits for that."""
    with contextlib.suppress(ImportError):
        importlib.import_module(PACKAGE)


def score_reasoning_gym(item: RewardInput, marker: str = "answer_tag") -> Score:
    """1 when the task's own scorer takes the marked answer for wholly right, else 0.

    Columns: `task`, a task's name, and `entry`, the problem as JSON (`data.reasoning_gym` writes both). What the
    package gives for part of an answer is not paid: much of it grows with text that merely contains the answer.
    """
    if marker not in MARKERS:
        raise RewardError(f"reasoning_gym: marker={marker!r}: unknown; choose one of {', '.join(MARKERS)}")
    task, entry = item.columns.get("task"), item.columns.get("entry")
    if task not in GYM_TASKS or not isinstance(entry, str):
        detail = f"needs a task of data.reasoning_gym in 'task' (it holds {task!r}) and its problem in 'entry'"
        return Score(value=None, status=Status.ERROR, detail=detail)
    scorer = _scorer(_package(), task)  # even for a response without an answer: a trial call must find it absent
    text = final_text(item.response, item.prompt)
    found = find_answer(text, marker) if text is not None else None
    if found is None or not (found.answers or found.refusal):
        return Score(value=0.0, status=Status.NO_ANSWER, detail=f"no answer in the form {marker!r}")
    if found.refusal or len(found.answers) > 1:
        return Score(value=0.0, status=Status.REFUSED, detail=found.refusal or "several answers")
    answer = " ".join(found.answers)
    return Score(value=float(scorer(answer, json.loads(entry)) == 1.0), detail=answer[:80])


def _package() -> ModuleType:
    try:
        return importlib.import_module(PACKAGE)
    except ImportError as error:
        raise RewardError(f"reasoning_gym: {error}; install it: pip install 'wutong[reasoning-gym]'") from error


@functools.cache
def _scorer(package: ModuleType, task: str) -> Callable[[str, Mapping[str, Any]], float]:
    return package.get_score_answer_fn(task)
