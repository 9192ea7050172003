"""The code reward: the response's program against tests, each in a sandbox of its own."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rewards.contract import RewardError, RewardInput, Score, Status
from rewards.markers import final_text
from rewards.sandbox import SandboxLimits, check_sandbox, run_python

_FENCE = re.compile(r"```(?:python|py)?[ \t]*\n")
_LONGEST_PROGRAM = 60_000

# Appended to the program: calls one function and prints what it returns. What is right is not told in there.
_CALL = """
import json as _json, sys as _sys
_request = _json.load(_sys.stdin)
_result = globals()[_request["call"]](*_request["args"])
_sys.__stdout__.write("\\n" + _json.dumps(_result) + "\\n")
"""


def score_code(
    item: RewardInput,
    column: str = "tests",
    is_all_or_nothing: bool = True,
    timeout_seconds: float = 5.0,
    memory_mib: int = 512,
) -> Score:
    """1 when the last fenced Python block passes every test of the column (else 0; or the share that it passes).

    A test is `{stdin, stdout}`, `{call, args, expected}`, or a text of assertions that runs after the program.
    The first two compare outside of the sandbox, where a program cannot pretend; assertions it can, so prefer
    the others. `timeout_seconds` bounds one test.
    """
    check_sandbox()
    tests = item.columns.get(column) if item.columns else None
    if isinstance(tests, str):
        tests = _loaded(tests)
    if not isinstance(tests, Sequence) or not tests:
        return Score(value=None, status=Status.ERROR, detail=f"the column {column!r} holds no tests")
    program = last_program(final_text(item.response, item.prompt) or "")
    if program is None:
        return Score(value=0.0, status=Status.NO_ANSWER, detail="no fenced Python block after the thinking")
    limits = SandboxLimits(timeout_seconds=timeout_seconds, memory_mib=memory_mib)
    faults = []
    for test in tests:
        faults.append(_fault(program, test, limits))
        if is_all_or_nothing and faults[-1]:
            break
    share = faults.count("") / len(tests)
    value = float(share == 1.0) if is_all_or_nothing else share
    return Score(value=value, detail=next((fault for fault in faults if fault), "")[:200])


def last_program(text: str) -> str | None:
    """The last fenced block of Python; None without one, or when it is too long to be one."""
    end = text.rfind("```")
    starts = [match.end() for match in _FENCE.finditer(text, 0, max(end, 0)) if match.end() <= end]
    program = text[starts[-1] : end] if starts else ""
    return program if program.strip() and len(program) <= _LONGEST_PROGRAM else None


def _fault(program: str, test: Any, limits: SandboxLimits) -> str:
    """What was wrong with one test; empty when it passed."""
    if isinstance(test, str):
        outcome = run_python(f"{program}\n{test}\nprint('\\n' + 'passed')", "", limits)
        is_right = outcome.exit_code == 0 and _last_line(outcome.stdout) == "passed"
        return "" if is_right else outcome.fault or _last_line(outcome.stdout) or "it ended before its tests"
    if isinstance(test, Mapping) and {"stdin", "stdout"} <= test.keys():
        outcome = run_python(program, str(test["stdin"]), limits)
        if outcome.exit_code != 0:
            return outcome.fault or f"exit status {outcome.exit_code}: {_last_line(outcome.stdout)}"
        return "" if _lines(outcome.stdout) == _lines(str(test["stdout"])) else "another output than expected"
    if isinstance(test, Mapping) and {"call", "args", "expected"} <= test.keys():
        request = json.dumps({"call": test["call"], "args": test["args"]})
        outcome = run_python(program + _CALL, request, limits)
        if outcome.exit_code != 0:
            return outcome.fault or f"exit status {outcome.exit_code}: {_last_line(outcome.stdout)}"
        return "" if _loaded(_last_line(outcome.stdout)) == test["expected"] else "another value than expected"
    raise RewardError("code: a test must be a text of assertions, {stdin, stdout} or {call, args, expected}")


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def _last_line(text: str) -> str:
    return text.rstrip().rpartition("\n")[2][:500]


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
