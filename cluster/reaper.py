"""The process that ends what Ray leaves behind when the driver is killed.

The head of a local cluster dies with the driver, by the kernel's doing. The agents beside it then try for a minute
to tell the head about it, and hold their ports and memory meanwhile.
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator

import psutil

_SAME_START_SECONDS = 2.0  # a process number may be used again; the start time differs then


@contextlib.contextmanager
def reaping(processes: Iterable[psutil.Process]) -> Iterator[None]:
    """Inside, `processes` are ended as soon as this process is gone, however it ends."""
    reaper = subprocess.Popen(
        [sys.executable, "-P", __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C at the terminal is none of its business
    )
    assert reaper.stdin is not None
    started = [[process.pid, process.create_time()] for process in processes if process.is_running()]
    try:
        reaper.stdin.write(json.dumps(started).encode() + b"\n")
        reaper.stdin.flush()
        yield
    finally:
        reaper.stdin.close()
        reaper.wait()


def main() -> None:
    """Read which processes to watch over, wait until the driver hangs up, and kill those that are left."""
    started = json.loads(sys.stdin.readline() or "[]")
    sys.stdin.read()
    for pid, create_time in started:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            if abs(process.create_time() - create_time) < _SAME_START_SECONDS:
                process.kill()


if __name__ == "__main__":
    main()
