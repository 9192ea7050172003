"""The pool: composed scores, and faults that cost one sample and one process."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from configs.schema.rewards import RewardPoolConfig, RewardSpec
from rewards.contract import RewardError, RewardInput, Score, Status
from rewards.pool import RewardPool

ROOT = Path(__file__).resolve().parents[2]


def sample(response: str, answer: str | None = "42", **columns: object) -> RewardInput:
    return RewardInput(prompt="?", response=response, answer=answer, columns=columns, id=response[:20])


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RewardPool]]:
    """Starts a pool on a user's file with a function `score`."""
    pools = []

    def start_pool(source: str, num_processes: int = 1, timeout_seconds: float = 0.5) -> RewardPool:
        (tmp_path / "mine.py").write_text(source, encoding="utf-8")
        limits = RewardPoolConfig(timeout_seconds=timeout_seconds, num_processes=num_processes)
        pools.append(pool := RewardPool([RewardSpec(use="mine.py:score")], limits, folder=tmp_path))
        pool.start()
        return pool

    yield start_pool
    for pool in pools:
        pool.close()


def keeper_of(pid: int) -> psutil.Process:
    """The one process that forks workers for the pool of process `pid`."""
    (keeper,) = [child for child in psutil.Process(pid).children() if "rewards.keeper" in " ".join(child.cmdline())]
    return keeper


def judge(pool: RewardPool, *responses: str) -> list[Score]:
    return pool.score_blocking([sample(response) for response in responses])


def test_math_is_scored_in_order() -> None:
    pool = RewardPool([RewardSpec(use="math")], RewardPoolConfig())
    pool.start()
    scores = judge(pool, r"\boxed{42}", r"\boxed{43}", "none", r"\boxed{\frac{84}{2}}")
    pool.close()
    assert [score.value for score in scores] == [1.0, 0.0, 0.0, 1.0]
    assert [score.status for score in scores] == [Status.OK, Status.OK, Status.NO_ANSWER, Status.OK]
    assert scores[0].parts == {"math": 1.0}


FAULTS = """
import os, signal, sys, time
def score(item):
    match item.response:
        case "hang": time.sleep(60)
        case "busy": 9 ** 9 ** 9
        case "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True: pass
        case "exit": os._exit(0)
        case "quit": sys.exit(3)
        case "crash": os.kill(os.getpid(), signal.SIGSEGV)
        case "memory": return len(bytearray(10**12))
        case "raise": raise KeyError("gone")
        case "fork":
            if os.fork() == 0: return 0.0
        case "print": print("x" * 10**6)
        case "cwd": os.chdir("/"); os.environ["HOME"] = "/nowhere"; signal.signal(signal.SIGINT, signal.SIG_IGN)
    return 1.0
"""


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ("hang", Status.TIMEOUT),
        ("busy", Status.TIMEOUT),
        ("deaf", Status.TIMEOUT),
        ("exit", Status.ERROR),
        ("quit", Status.ERROR),
        ("crash", Status.ERROR),
        ("memory", Status.MEMORY),
        ("raise", Status.ERROR),
        ("fork", Status.OK),
        ("print", Status.OK),
        ("cwd", Status.OK),
    ],
)
def test_a_fault_costs_its_own_sample_only(start: Callable[..., RewardPool], fault: str, status: Status) -> None:
    scores = judge(start(FAULTS), "a", fault, "b", "c")
    assert [score.status for score in scores] == [Status.OK, status, Status.OK, Status.OK]
    assert [score.value for score in scores] == [1.0, 1.0 if status is Status.OK else None, 1.0, 1.0]


def test_faults_in_a_batch_function_are_found_sample_by_sample(start: Callable[..., RewardPool]) -> None:
    source = FAULTS.replace("def score(item)", "def one(item)") + "\ndef score(items): return [one(i) for i in items]\n"
    scores = judge(start(source), "a", "hang", "b", "crash")
    assert [score.status for score in scores] == [Status.OK, Status.TIMEOUT, Status.OK, Status.ERROR]


def test_an_error_names_the_users_file_and_line(start: Callable[..., RewardPool], tmp_path: Path) -> None:
    (score,) = judge(start(FAULTS), "raise")
    line = 1 + FAULTS.splitlines().index('        case "raise": raise KeyError("gone")')
    assert score.detail == f"score: {tmp_path}/mine.py:{line}: KeyError: 'gone'"


def test_waiting_for_a_process_counts_against_no_limit(start: Callable[..., RewardPool]) -> None:
    pool = start("import time\ndef score(item):\n    time.sleep(0.2)\n    return 1.0\n")
    assert [score.status for score in judge(pool, *"abcdefg")] == [Status.OK] * 7


@pytest.mark.slow
def test_capacity_is_the_same_after_a_thousand_hangs(start: Callable[..., RewardPool]) -> None:
    pool = start(
        "import time\ndef score(item):\n    time.sleep(60 * (item.response == 'h'))\n    return 1.0\n",
        timeout_seconds=0.02,
    )
    statuses = [score.status for score in judge(pool, *["h"] * 1000)]
    assert set(statuses) == {Status.TIMEOUT}
    assert [score.value for score in judge(pool, "a", "b")] == [1.0, 1.0]
    assert len(keeper_of(os.getpid()).children()) == 1


def test_one_pool_serves_several_threads_and_loops(start: Callable[..., RewardPool]) -> None:
    pool = start("def score(item): return float(item.response)", num_processes=2)
    answers: dict[int, list[Score]] = {}

    def ask(number: int) -> None:
        answers[number] = asyncio.run(pool.score([sample(str(number * 100 + at)) for at in range(80)]))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {number: [score.value for score in scores] for number, scores in answers.items()} == {
        number: [number * 100.0 + at for at in range(80)] for number in range(4)
    }


def test_the_event_loop_stays_free_while_rewards_hang(start: Callable[..., RewardPool]) -> None:
    pool = start(FAULTS)

    async def longest_pause() -> float:
        task = asyncio.create_task(pool.score([sample("hang"), sample("busy")]))
        longest, before = 0.0, time.monotonic()
        while not task.done():
            await asyncio.sleep(0.01)
            longest, before = max(longest, time.monotonic() - before), time.monotonic()
        return longest

    assert asyncio.run(longest_pause()) < 0.1


def test_close_leaves_no_process(start: Callable[..., RewardPool]) -> None:
    pool = start(FAULTS, num_processes=2)
    family = [keeper_of(os.getpid())]
    judge(pool, "a", "b", "c", "fork")
    family += family[0].children(recursive=True)
    assert len(family) >= 2
    pool.close()
    assert not any(process.is_running() and process.status() != "zombie" for process in family)


def test_close_fails_what_still_waits(start: Callable[..., RewardPool]) -> None:
    pool = start(FAULTS, timeout_seconds=60)
    outcomes: list[BaseException] = []

    def ask() -> None:
        try:
            judge(pool, "hang", "hang", "hang")
        except RuntimeError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    pool.close()
    for thread in threads:
        thread.join(timeout=10)
    assert [str(error) for error in outcomes] == ["the reward pool is closed"] * 3


ORPHAN = """
import sys, threading, time
from pathlib import Path
from configs.schema.rewards import RewardPoolConfig, RewardSpec
from rewards.contract import RewardInput
from rewards.pool import RewardPool
pool = RewardPool([RewardSpec(use="mine.py:score")], RewardPoolConfig(timeout_seconds=60), folder=Path(sys.argv[1]))
pool.start()
busy = RewardInput(prompt="", response="busy", answer=None)
threading.Thread(target=pool.score_blocking, args=([busy],), daemon=True).start()
time.sleep(0.3)
print("started", flush=True)
time.sleep(60)
"""


def test_processes_die_with_a_killed_parent_even_in_a_busy_loop(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FAULTS, encoding="utf-8")
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHAN, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT, text=True
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "started\n"
    keeper = keeper_of(parent.pid)
    family = [keeper, *keeper.children(recursive=True)]
    assert len(family) == 2
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []


def test_a_killed_keeper_is_replaced(start: Callable[..., RewardPool]) -> None:
    pool = start("def score(item): return 1.0")
    keeper_of(os.getpid()).kill()
    time.sleep(0.2)
    assert judge(pool, "a")[0].status is Status.ERROR
    assert judge(pool, "b")[0].value == 1.0


def test_a_pool_that_was_not_started_says_so() -> None:
    with pytest.raises(RuntimeError, match=r"start\(\)"):
        judge(RewardPool([RewardSpec(use="math")], RewardPoolConfig()), "a")


def test_an_unknown_reward_is_refused_before_any_process_starts() -> None:
    with pytest.raises(RewardError, match="'maths' is unknown; did you mean math"):
        RewardPool([RewardSpec(use="maths")], RewardPoolConfig())
