"""A process ends with what started it, also when it is stopped."""

import os
import signal
import subprocess
import sys
import threading

CHILD = """
import sys, time
from actors.lifeline import end_with
end_with(int(sys.argv[1]))
print(1, flush=True)
time.sleep(60)
"""


def started(parent: int) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", CHILD, str(parent)], stdout=subprocess.PIPE, text=True)


def test_a_stopped_process_ends_with_the_thread_that_started_it() -> None:
    children = []
    is_tied, may_end = threading.Event(), threading.Event()

    def run() -> None:
        children.append(started(os.getpid()))
        children[0].stdout.readline()
        is_tied.set()
        may_end.wait()

    thread = threading.Thread(target=run)
    thread.start()
    assert is_tied.wait(30)
    os.kill(children[0].pid, signal.SIGSTOP)
    assert children[0].poll() is None
    may_end.set()
    thread.join()
    assert children[0].wait(10) == -signal.SIGKILL


def test_a_process_whose_parent_is_gone_already_ends() -> None:
    assert started(parent=1 if os.getpid() != 1 else 2).wait(10) == 1
