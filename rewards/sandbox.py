"""Where a model's program runs: bubblewrap, with no network, no files but the system's, no processes, and hard limits.

There is no other way to run one: without a working bubblewrap the code reward refuses to start.
"""

import functools
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rewards.contract import RewardError
from rewards.syscalls import filter_file

_MOST_OUTPUT = 1 << 20  # bytes kept; a program that writes more is ended

# Runs first in the sandbox: the limits, then the program.
_BOOT = """
import resource, sys
def limit(name, value):
    resource.setrlimit(name, (value, value))
limit(resource.RLIMIT_AS, int(sys.argv[1]))
limit(resource.RLIMIT_CPU, int(sys.argv[2]))
limit(resource.RLIMIT_NPROC, 32)
limit(resource.RLIMIT_NOFILE, 64)
limit(resource.RLIMIT_FSIZE, 1 << 24)
limit(resource.RLIMIT_CORE, 0)
del sys.argv[1:3]
exec(compile(sys.argv.pop(1), "program.py", "exec"), {"__name__": "__main__"})
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxLimits:
    """What one program may use."""

    timeout_seconds: float
    memory_mib: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a program ended. `exit_code` is None when it was ended from outside; `fault` says why then."""

    stdout: str
    exit_code: int | None
    fault: str = ""


def run_python(program: str, stdin: str, limits: SandboxLimits) -> Outcome:
    """Run a Python program in a sandbox of its own. RewardError when there is no working bubblewrap."""
    check_sandbox()
    return _run(program, stdin, limits)


@functools.cache
def check_sandbox() -> None:
    """RewardError unless bubblewrap is installed and may make namespaces on this machine."""
    if shutil.which("bwrap") is None:
        raise RewardError(
            "code: bubblewrap is not installed, and programs run nowhere else; `apt-get install bubblewrap`, "
            "or take the code reward out of `rewards`"
        )
    outcome = _run("print('ready')", "", SandboxLimits(timeout_seconds=20, memory_mib=512))
    if outcome.stdout.strip() != "ready":
        reason = outcome.fault or outcome.stdout.strip()[-300:]
        raise RewardError(
            f"code: bubblewrap cannot make a sandbox on this machine ({reason}); "
            "allow unprivileged user namespaces, or take the code reward out of `rewards`"
        )


def _run(program: str, stdin: str, limits: SandboxLimits) -> Outcome:
    seconds = max(1, round(limits.timeout_seconds + 0.5))
    interpreter = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    run = [
        "--",
        interpreter,
        "-I",
        "-B",
        "-c",
        _BOOT,
        str(limits.memory_mib << 20),
        str(seconds),
        program,
    ]
    with tempfile.TemporaryFile() as source, filter_file() as calls:
        source.write(stdin.encode("utf-8", errors="replace"))
        source.seek(0)
        command = [*_bubblewrap(), "--seccomp", str(calls), *run]
        try:
            process = subprocess.Popen(
                command, stdin=source, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={}, pass_fds=[calls]
            )
        except OSError as error:  # an argument that is too long, or holds a NUL
            return Outcome(stdout="", exit_code=None, fault=f"not started: {error}")
        except ValueError as error:
            return Outcome(stdout="", exit_code=None, fault=f"not started: {error}")
        return _watch(process, time.monotonic() + limits.timeout_seconds)


def _watch(process: "subprocess.Popen[bytes]", deadline: float) -> Outcome:
    """Collect output until the program ends, says too much, or its time is up."""
    assert process.stdout is not None
    output, fault = bytearray(), ""
    with process.stdout as pipe, selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while not fault:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                fault = "out of time"
            elif selector.select(remaining):
                data = os.read(pipe.fileno(), 1 << 16)
                if not data:
                    break
                output += data
                fault = "too much output" if len(output) > _MOST_OUTPUT else ""
        if fault:
            process.kill()  # the whole process namespace dies with it
    try:
        process.wait(timeout=max(deadline - time.monotonic(), 1.0))
    except subprocess.TimeoutExpired:  # it closed its output and went on
        process.kill()
        process.wait()
        fault = "out of time"
    text = output[:_MOST_OUTPUT].decode(errors="replace")
    return Outcome(stdout=text, exit_code=None if fault else process.returncode, fault=fault)


def _bubblewrap() -> list[str]:
    command = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"]
    command += ["--uid", "65534", "--gid", "65534", "--ro-bind", "/usr", "/usr"]
    for folder in ("/bin", "/lib", "/lib64", "/sbin"):
        path = Path(folder)
        if path.is_symlink():
            command += ["--symlink", str(path.readlink()), folder]
        elif path.exists():
            command += ["--ro-bind", folder, folder]
    base = Path(sys.base_prefix).resolve()
    if not base.is_relative_to("/usr"):
        command += ["--ro-bind", str(base), str(base)]
    command += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--chdir", "/tmp"]
    return [shutil.which("bwrap") or "bwrap", *command[1:]]
