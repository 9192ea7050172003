"""Ray clusters with a head of their own on loopback, as `ray start --head` makes them, with a token."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

BIN = Path(sys.executable).parent
_PORTS = (
    "port",
    "dashboard-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "metrics-export-port",
    "ray-client-server-port",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A head that is up. `environment`: what a command needs to speak to it."""

    url: str
    environment: dict[str, str]


@contextlib.contextmanager
def ray_head(*, num_cpus: int = 4, **variables: str) -> Iterator[Head]:
    """A head inside, on free ports, which wants a token; `variables`: more of its environment."""
    ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
    temp = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short: a socket's path has a limit
    url = f"http://127.0.0.1:{ports['dashboard-port']}"
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": os.environ["RAY_AUTH_TOKEN"]}  # see tests/conftest.py
    path = f"{BIN}:{os.environ['PATH']}"  # a job's command finds `python` there, as in an activated environment
    env = environment(**token, RAY_USAGE_STATS_ENABLED="0", PATH=path, **variables)
    options = [f"--num-cpus={num_cpus}", "--node-ip-address=127.0.0.1", f"--temp-dir={temp}"]
    command = [str(BIN / "ray"), "start", "--head", "--block", *options, *(f"--{n}={p}" for n, p in ports.items())]
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(url, token["RAY_AUTH_TOKEN"])
        yield Head(url=url, environment=environment(**token))
    finally:
        children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        psutil.wait_procs(children, timeout=15)
        for child in [child for child in children if child.is_running()]:
            child.kill()
        process.wait(timeout=15)
        shutil.rmtree(temp, ignore_errors=True)


def environment(**changes: str) -> dict[str, str]:
    """This process's, without what points to any Ray cluster."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | changes


def free_ports(count: int) -> list[int]:
    """Of this machine, on loopback."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _wait_for(url: str, token: str) -> None:
    """Until the job server lists jobs."""
    request = urllib.request.Request(f"{url}/api/jobs/", headers={"Authorization": f"Bearer {token}"})
    deadline = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                assert json.loads(answer.read()) == []
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)
