"""The code reward: programs of a model, in a sandbox or not at all."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rewards.code import last_program, score_code
from rewards.contract import RewardError, RewardInput, Score, Status
from rewards.sandbox import check_sandbox

ROOT = Path(__file__).resolve().parents[2]
CAN_SANDBOX = shutil.which("bwrap") is not None
ADD = "a, b = map(int, input().split())\nprint(a + b)"
STDIO = {"stdin": "1 2", "stdout": "3\n"}
CALL = {"call": "add", "args": [1, 2], "expected": 3}


def judge(program: str, *tests: Any, **args: Any) -> Score:
    """The verdict; where there is no bubblewrap, the refusal is what is tested."""
    item = RewardInput(prompt="", response=f"```python\n{program}\n```", answer=None, columns={"tests": list(tests)})
    if not CAN_SANDBOX:
        with pytest.raises(RewardError, match="apt-get install bubblewrap"):
            score_code(item, **args)
        pytest.skip("no bubblewrap: the code reward refused, as it must")
    return score_code(item, **{"timeout_seconds": 5.0, **args})


def test_without_bubblewrap_the_reward_refuses_and_runs_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    program = f"```python\nopen({str(marker)!r}, 'w')\n```"
    script = (
        "from rewards.code import score_code\nfrom rewards.contract import RewardInput\n"
        f"score_code(RewardInput(prompt='', response={program!r}, answer=None, columns={{'tests': ['']}}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env={**os.environ, "PATH": "/nowhere"}, capture_output=True, text=True
    )
    assert "RewardError: code: bubblewrap is not installed" in done.stderr
    assert not marker.exists()


@pytest.mark.parametrize(
    ("program", "test"),
    [(ADD, STDIO), ("def add(a, b): return a + b", CALL), ("def add(a, b): return a + b", "assert add(1, 2) == 3")],
)
def test_a_right_program_passes(program: str, test: Any) -> None:
    assert judge(program, test).value == 1.0


@pytest.mark.parametrize(
    ("program", "test"),
    [
        ("print(4)", STDIO),
        ("print(3, 3)", STDIO),
        ("def add(a, b): return 4", CALL),
        ("", CALL),
        ("def add(a, b): return 4", "assert add(1, 2) == 3"),
        ("import sys; sys.exit(0)", "assert False"),
        ("import os; os._exit(0)", "assert False"),
        ("import os; os._exit(0)", CALL),
        ("syntax error", STDIO),
        ("class Any:\n def __eq__(self, o): return True\ndef add(a, b): return Any()", CALL),
    ],
)
def test_a_wrong_program_fails(program: str, test: Any) -> None:
    assert judge(program, test).value == 0.0


def test_the_share_of_passed_tests() -> None:
    score = judge(ADD, STDIO, {"stdin": "2 2", "stdout": "5"}, is_all_or_nothing=False)
    assert (score.value, score.detail) == (0.5, "another output than expected")


@pytest.mark.parametrize(
    "escape",
    [
        "open('/etc/passwd').read()",
        f"open({str(ROOT / 'pyproject.toml')!r}).read()",
        "open('/usr/planted', 'w')",
        "import socket; socket.create_connection(('127.0.0.1', 22), 2)",
        "import os; os.environ['HOME']",
        "import os; os.listdir('/etc')",
        "bytearray(10**10)",
        "import urllib.request; urllib.request.urlopen('http://1.1.1.1', timeout=2)",
    ],
)
def test_nothing_outside_is_in_reach(escape: str) -> None:
    score = judge(f"{escape}\nprint(3)", STDIO)
    assert score.value == 0.0
    assert "exit status 1" in score.detail


@pytest.mark.parametrize(
    "bomb",
    [
        "while True: pass",
        "import os\nwhile True:\n try: os.fork()\n except OSError: pass",
        "while True: print('x' * 10000)",
        "import os, time\nos.close(1); os.close(2)\ntime.sleep(60)",
        "import time\ntry: time.sleep(60)\nfinally: time.sleep(60)",
    ],
)
def test_a_bomb_ends_in_time_and_leaves_nothing(bomb: str) -> None:
    started = time.monotonic()
    score = judge(bomb, STDIO, timeout_seconds=1.0)
    assert score.value == 0.0
    assert time.monotonic() - started < 4


@pytest.mark.parametrize(
    "start",
    [
        "os.fork()",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "subprocess.run(['true'])",
        "ctypes.CDLL(None).syscall(57)",
        "ctypes.CDLL(None).syscall(0x40000000 + 57)",
        "ctypes.CDLL(None).syscall(56, 17, 0, 0, 0, 0)",
        "ctypes.CDLL(None).syscall(435, (ctypes.c_uint64 * 8)(), 64)",
    ],
)
def test_no_process_can_be_started(start: str) -> None:
    program = f"""
import ctypes, os, subprocess
try:
    result = {start}
except OSError:
    result = -1
print(result, [name for name in os.listdir("/proc") if name.isdigit()])
"""
    assert judge(program, {"stdin": "", "stdout": "-1 ['1', '2']"}).value == 1.0


def test_threads_can_be_started() -> None:
    program = "import threading\nthread = threading.Thread(target=print, args=[3])\nthread.start()\nthread.join()"
    assert judge(program, STDIO).value == 1.0


def test_secrets_of_the_environment_stay_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "canary")
    program = """
import glob, os
seen = repr(dict(os.environ))
for path in glob.glob("/proc/*/environ"):
    try:
        seen += open(path).read()
    except OSError:
        pass
print("canary" in seen)
"""
    assert judge(program, {"stdin": "", "stdout": "False"}).value == 1.0


def test_a_sandbox_on_this_machine_works_where_bubblewrap_is() -> None:
    if CAN_SANDBOX:
        check_sandbox()
    else:
        with pytest.raises(RewardError):
            check_sandbox()


@pytest.mark.parametrize("tests", [None, [], "not json", 3])
def test_without_tests_a_sample_cannot_be_scored(tests: Any) -> None:
    item = RewardInput(prompt="", response="```python\n1\n```", answer=None, columns={"tests": tests})
    if CAN_SANDBOX:
        assert score_code(item).status is Status.ERROR


def test_the_last_fenced_block_is_the_program() -> None:
    assert last_program("```python\na\n```\ntext\n```py\nb\n```\nend") == "b\n"
    assert last_program("```\nb\n```") == "b\n"
    assert last_program("b") is None
    assert last_program("```python\nb") is None
    assert last_program("```python\n" + "x" * 70_000 + "\n```") is None
