"""Promise 1: no Ray cluster without a token is started, and none is joined unless that was asked for."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from cluster.ray_token import check_cluster, demand_token, keep_token_private
from configs.load import ConfigError, load_run

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "configs" / "arithmetic" / "pretrain.yaml"
TOKEN = secrets.token_hex(32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """Addresses of the heads of two clusters."""

    asking: str
    open: str


@pytest.fixture(scope="module")
def heads() -> Iterator[Heads]:
    temp = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # short: a socket's path has a limit
    modes = {"asking": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}, "open": {"RAY_AUTH_MODE": "disabled"}}
    ports = {name: free_port() for name in modes}
    started = [start_head(ports[name], temp / name, environment(**mode)) for name, mode in modes.items()]
    try:
        for name in modes:
            wait_for(temp / name / "session_latest" / "sockets" / "raylet")
        yield Heads(**{name: f"127.0.0.1:{port}" for name, port in ports.items()})
    finally:
        for process in started:
            end(process)
        shutil.rmtree(temp, ignore_errors=True)


def start_head(port: int, temp: Path, env: dict[str, str]) -> "subprocess.Popen[bytes]":
    options = ["--num-cpus=1", "--node-ip-address=127.0.0.1", "--include-dashboard=false", f"--port={port}"]
    command = [str(BIN / "ray"), "start", "--head", "--block", f"--temp-dir={temp}", *options]
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def end(process: "subprocess.Popen[bytes]") -> None:
    children = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    _, left = psutil.wait_procs(children, timeout=15)
    for child in left:
        child.kill()
    process.wait(timeout=15)


def environment(**changes: str) -> dict[str, str]:
    """This process's, without what points to any Ray cluster."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | changes


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.2)
    time.sleep(1)


def plan(address: str, *options: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """`wutong plan --address`, the command that joins a cluster and starts nothing there."""
    command = [str(BIN / "wutong"), "plan", str(RECIPE), "trainer.num_ranks=1", "--address", address, *options]
    env = environment(COLUMNS="1000", **variables)
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)


def test_a_cluster_that_asks_for_no_token_is_joined_only_on_request_and_with_a_warning(heads: Heads) -> None:
    refused = plan(heads.open)
    assert refused.returncode == 2
    assert refused.stderr.splitlines() == [
        f"cluster.address={heads.open}: the cluster asks for no token, so whoever reaches it can run code on it; "
        "start it with RAY_AUTH_MODE=token, or join it all the same with --insecure-cluster (cluster.insecure=true)"
    ]
    joined = plan(heads.open, "--insecure-cluster", RAY_AUTH_TOKEN=TOKEN)
    assert joined.returncode == 0, joined.stderr
    assert f"INSECURE: the Ray cluster at {heads.open} asks for no token" in joined.stderr


def test_a_cluster_that_asks_for_a_token_is_joined_with_it(heads: Heads) -> None:
    joined = plan(heads.asking, RAY_AUTH_TOKEN=TOKEN)
    assert joined.returncode == 0, joined.stderr
    assert "INSECURE" not in joined.stderr


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, "the cluster asks for a token, and there is none here; set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH, or"),
        ("b" * 64, "the cluster asks for another token than the one here; `ray get-auth-token` on its head"),
    ],
)
def test_without_the_right_token_one_line_says_so(
    heads: Heads, token: str | None, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    if token is not None:
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    begun = time.monotonic()
    with pytest.raises(ValueError, match=f"^cluster.address={heads.asking}: {message}"):
        check_cluster(heads.asking, is_insecure=False)
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ray://127.0.0.1:10001", "want HOST:PORT of the cluster's head, or auto"),
        ("127.0.0.1:1", "no Ray cluster answers there"),
    ],
)
def test_an_address_without_a_head_is_told(address: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^cluster.address={address}: {message}"):
        check_cluster(address, is_insecure=False)


def test_a_local_cluster_cannot_be_made_insecure() -> None:
    with pytest.raises(ConfigError, match="insecure=true without an address"):
        load_run(RECIPE, ["cluster.insecure=true"])


def test_a_local_cluster_asks_for_a_token_whatever_the_environment_says() -> None:
    script = (
        "from cluster.ray_token import demand_token; demand_token(); import os; from ray._raylet import *; "
        "print(get_authentication_mode() == AuthenticationMode.TOKEN, len(os.environ['RAY_AUTH_TOKEN']))"
    )
    for mode in ({}, {"RAY_AUTH_MODE": "disabled"}):
        done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment(**mode), capture_output=True)
        assert done.stdout.split() == [b"True", b"64"], done.stderr


def test_a_token_file_that_others_can_read_is_taken_from_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(0o644)
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    keep_token_private()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_token_file_that_is_not_there_is_told_before_ray_makes_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/nowhere/token")
    with pytest.raises(ValueError, match=r"^RAY_AUTH_TOKEN_PATH=/nowhere/token: no such file"):
        demand_token()
