"""Several hosts on this machine: network namespaces with an address each, joined by a switch, and Ray on them.

What hosts of a cluster share besides the network is a volume; here that is this machine's file system. Needs root.
"""

import os
import secrets
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.cluster.starts import ROOT

IP = shutil.which("ip", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
RAY = str(ROOT / ".venv" / "bin" / "ray")
PORT, DASHBOARD_PORT = 6379, 8265
NETWORK = "10.71.23"

# Losses are noticed in seconds, not half a minute; and samples travel as a real run's do, not inside of messages.
SWIFT = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "4",
    "RAY_max_direct_call_object_size": "1000",
}


def why_not() -> str | None:
    """Why there can be no such hosts on this machine; None: there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if IP is None:
        return "network namespaces need the command ip (Debian: iproute2)"
    name = f"wt-{uuid.uuid4().hex[:8]}"
    made = subprocess.run([IP, "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"ip netns add: {made.stderr.strip()}"
    ip("netns", "del", name)
    return None


def ip(*arguments: str) -> None:
    assert IP is not None
    subprocess.run([IP, *arguments], check=True, capture_output=True, timeout=20)


class Hosts:
    """The network, and the Ray nodes on it. The first host is the head."""

    def __init__(self, temp: Path) -> None:
        self.env = {
            **os.environ,
            **SWIFT,
            "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}",  # a job's command finds `python` there
            "PYTHONPATH": str(ROOT),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_enable_worker_prestart": "0",
        }
        self._mark = f"wt-{uuid.uuid4().hex[:8]}"
        self._switch = f"{self._mark}-switch"
        self._temp = temp
        self._nodes: dict[int, subprocess.Popen[bytes]] = {}
        self._num_hosts = 0
        ip("netns", "add", self._switch)
        ip("-n", self._switch, "link", "add", "name", "switch", "type", "bridge")
        ip("-n", self._switch, "link", "set", "switch", "up")

    @property
    def address(self) -> str:
        """Of the Ray cluster."""
        return f"{address(0)}:{PORT}"

    @property
    def url(self) -> str:
        """Of the head's dashboard and job server."""
        return f"http://{address(0)}:{DASHBOARD_PORT}"

    def add(self, *options: str) -> int:
        """One host more, with a Ray node that is given `options`; its number."""
        host = self.plug_in()
        self.start_node(host, *options)
        return host

    def plug_in(self) -> int:
        """One host more, without Ray, as the machine of a user is; its number."""
        host = self._num_hosts
        self._num_hosts += 1
        space = self._space(host)
        ip("netns", "add", space)
        ip("link", "add", "eth0", "netns", space, "type", "veth", "peer", "name", f"port{host}", "netns", self._switch)
        ip("-n", self._switch, "link", "set", f"port{host}", "master", "switch", "up")
        ip("-n", space, "address", "add", f"{address(host)}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            ip("-n", space, "link", "set", device, "up")
        ip("-n", space, "route", "add", "default", "via", f"{NETWORK}.254")
        return host

    def start_node(self, host: int, *options: str) -> None:
        """Start Ray there; also again, after it was cut off."""
        head = ["--head", f"--port={PORT}", f"--dashboard-host={address(0)}", f"--dashboard-port={DASHBOARD_PORT}"]
        where = head if host == 0 else [f"--address={self.address}"]
        temp = self._temp / f"{host}"
        common = [f"--node-ip-address={address(host)}", f"--temp-dir={temp}", "--object-store-memory=100000000"]
        command = self.inside(host, [RAY, "start", "--block", *where, *common, *options])
        log = (self._temp / f"{host}.log").open("ab")
        self._nodes[host] = subprocess.Popen(command, env=self.env, stdout=log, stderr=log)

    def inside(self, host: int, command: Sequence[str]) -> list[str]:
        """The command, to be run on a host."""
        assert IP is not None
        return [IP, "netns", "exec", self._space(host), *command]

    def cut_off(self, host: int) -> None:
        """Pull the plug of its network; its processes go on."""
        ip("-n", self._switch, "link", "set", f"port{host}", "down")

    def join_again(self, host: int) -> None:
        """Put the plug in again."""
        ip("-n", self._switch, "link", "set", f"port{host}", "up")

    def node_ended(self, host: int) -> bool:
        """Whether Ray has ended there."""
        return self._nodes[host].poll() is not None

    def processes(self) -> list[psutil.Process]:
        """All that run on the hosts."""
        return [process for host in range(self._num_hosts) for process in self._on(host)]

    def _on(self, host: int) -> list[psutil.Process]:
        assert IP is not None
        pids = subprocess.run([IP, "netns", "pids", self._space(host)], capture_output=True, text=True, check=True)
        found = []
        for pid in pids.stdout.split():
            with suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(int(pid)))
        return found

    def end(self) -> None:
        """End every process on the hosts, then the hosts."""
        for node in self._nodes.values():
            node.terminate()
        left = self.processes()
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=15)
        for node in self._nodes.values():
            node.wait(timeout=15)
        for space in [self._switch, *(self._space(host) for host in range(self._num_hosts))]:
            ip("netns", "del", space)

    def _space(self, host: int) -> str:
        return f"{self._mark}-{host}"


def address(host: int) -> str:
    return f"{NETWORK}.{host + 1}"


@contextmanager
def hosts() -> Iterator[Hosts]:
    """Made and taken down."""
    temp = Path(tempfile.mkdtemp(prefix="wt-", dir="/tmp"))  # short: a socket's path has a limit
    made = Hosts(temp)
    try:
        yield made
    finally:
        made.end()
        shutil.rmtree(temp, ignore_errors=True)


def until(condition: Callable[[], object], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not after {seconds:g} s"
        time.sleep(0.1)
