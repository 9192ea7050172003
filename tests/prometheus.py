"""A Prometheus of its own, asked over HTTP."""

import json
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

BINARY, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
needs_prometheus = pytest.mark.skipif(
    BINARY is None or PROMTOOL is None, reason="no Prometheus on this machine: apt-get install prometheus"
)


class Prometheus:
    """A running server."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"

    def get(self, path: str, **parameters: str) -> Any:
        address = f"{self.address}{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(address, timeout=10) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an expression now, each with `metric` (its labels) and `value`."""
        return self.get("/api/v1/query", query=expression)["result"]

    def is_up(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{self.address}/-/ready", timeout=10) as answer:
            return answer.status == 200
        return False


@contextmanager
def prometheus(config: Path, folder: Path) -> Iterator[Prometheus]:
    """On loopback, with its data in `folder`; ended by its own process."""
    assert BINARY is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [BINARY, f"--config.file={config}", f"--web.listen-address=127.0.0.1:{port}"]
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen([*command, f"--storage.tsdb.path={folder / 'tsdb'}"], stdout=log, stderr=log)
    try:
        server = Prometheus(port)
        deadline = time.monotonic() + 60
        while not server.is_up():
            assert process.poll() is None, (folder / "prometheus.log").read_text()
            assert time.monotonic() < deadline, "Prometheus does not start"
            time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        process.wait(timeout=30)
