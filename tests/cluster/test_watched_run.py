"""A run is watched with the tools of the cluster: a real Prometheus, our panels and alerts, Ray's own dashboard."""

import importlib.util
import json
import os
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from metrics.exposition import known_series
from tests.cluster.small_runs import make_run
from tests.cluster.starts import LIGHT_WUTONG, ROOT, Start, described, last_step
from tests.prometheus import PROMTOOL, Prometheus, needs_prometheus, prometheus

pytestmark = pytest.mark.slow

DOCKER = ROOT / "docker"
DASHBOARD = DOCKER / "grafana" / "dashboards" / "wutong.json"
TOKEN = "a-token-of-the-tests-alone-" + "0" * 37
EVERY_STEPS = 10


class Watched:
    """The run, the folder of its Ray, and the Prometheus that watches it."""

    def __init__(self, start: Start, ray: Path, server: Prometheus) -> None:
        self.start, self.ray, self.server = start, ray, server

    def steps_pass(self, number: int = 2) -> None:
        before = last_step(self.start.folder)
        self.start.wait_until(lambda: last_step(self.start.folder) > before + number, 120)

    def process(self, title: str) -> psutil.Process:
        """One of Ray's own processes in this run."""
        (found,) = (each for each in self.start.processes() if title in described(each))
        return found

    def ask_ray(self, path: str) -> Any:
        """What the dashboard of the run's Ray answers."""
        request = urllib.request.Request(f"{self.dashboard}{path}", headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    @property
    def dashboard(self) -> str:
        listening = (each for each in self.process("dashboard.py").net_connections() if each.status == "LISTEN")
        (port,) = {each.laddr.port for each in listening if each.laddr.ip == "127.0.0.1"}
        return f"http://127.0.0.1:{port}"


def write_recipe(folder: Path) -> None:
    make_run(
        folder,
        num_prompts=40,
        num_held_out=10,
        num_steps=100_000,
        trainer={"num_ranks": 1, "peak_tflops": 0.1},
        rollout={
            "num_workers": 2,
            "prompts_per_step": 8,
            "max_staleness": 1,
            "max_running_sequences": 4,
            "sampling": {"max_response_tokens": 100},
        },
        evaluation={"every_steps": EVERY_STEPS, "num_prompts": 4},
        algorithm={"kl_coef": 0.01, "correction": "tis"},
        cluster={"num_cpus": 6, "dashboard": True},
        checkpoint={"every_steps": 0},
        logging={"trajectories_every_steps": 0},
    )


def config_for(ray: Path, folder: Path) -> Path:
    """The committed configuration, but of this Ray's folder, and looking every second."""
    text = (DOCKER / "prometheus" / "prometheus.yml").read_text()
    text = text.replace("/tmp/ray/", f"{ray}/ray/").replace("15s", "1s")
    assert f"{ray}/ray/prom_metrics_service_discovery.json" in text
    (folder / "prometheus.yml").write_text(text)
    (folder / "alerts.yml").write_text((DOCKER / "prometheus" / "alerts.yml").read_text())
    return folder / "prometheus.yml"


@contextmanager
def watched_run(folder: Path, wutong: Sequence[str] = LIGHT_WUTONG) -> Iterator[Watched]:
    """A run with the light engine, on a Ray of its own that tells its metrics every second."""
    write_recipe(folder)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(dir="/tmp", prefix="w") as ray:
        patch.setenv("RAY_TMPDIR", ray)  # short: it holds sockets
        patch.setenv("RAY_metrics_report_interval_ms", "1000")
        patch.setenv("RAY_AUTH_TOKEN", TOKEN)
        start = Start(folder, wutong=wutong)
        try:
            start.wait_until(lambda: last_step(folder) > EVERY_STEPS, 180)
            with prometheus(config_for(Path(ray), folder), folder) as server:
                yield Watched(start, Path(ray), server)
        finally:
            start.process.kill()
            start.process.wait(timeout=30)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watched_run(tmp_path_factory.mktemp("watched")) as run:
        run.start.wait_until(lambda: len(run.server.query("rate(ray_wutong_engine_tokens_total[5s])")) == 2, 60)
        yield run


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def queries() -> list[tuple[str, str]]:
    """The query of each line, with the panel it is in, as Grafana would send it for all runs."""
    filled = {"$run": ".*", "$__rate_interval": "10s"}
    found = []
    for panel in panels():
        for target in panel["targets"]:
            query = target["expr"]
            for name, value in filled.items():
                query = query.replace(name, value)
            found.append((panel["title"], query))
    return found


def test_the_dashboard_is_the_one_that_its_table_makes() -> None:
    spec = importlib.util.spec_from_file_location("make_dashboard", DOCKER / "grafana" / "make_dashboard.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = json.dumps(module.dashboard(), indent=1) + "\n"
    assert DASHBOARD.read_text() == made, "run python docker/grafana/make_dashboard.py"


@needs_prometheus
@pytest.mark.parametrize("check", [["check", "config", "prometheus.yml"], ["test", "rules", "alerts_test.yml"]])
def test_prometheus_takes_our_files_and_alerts_fire_when_they_should(check: list[str]) -> None:
    assert PROMTOOL is not None
    done = subprocess.run(
        [PROMTOOL, *check], cwd=DOCKER / "prometheus", capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_prometheus
def test_every_query_of_every_panel_finds_the_run(watched: Watched) -> None:
    assert len(queries()) > 30
    deadline = time.monotonic() + 60  # some are rates of what has only begun
    left = queries()
    while left and time.monotonic() < deadline:
        left = [(title, query) for title, query in left if not watched.server.query(query)]
        time.sleep(0.5)
    assert left == []


@needs_prometheus
def test_what_prometheus_knows_of_the_run_is_in_our_table(watched: Watched) -> None:
    names = {series["metric"]["__name__"] for series in watched.server.query('{__name__=~"ray_wutong_.+"}')}
    assert len(names) > 50
    assert names <= known_series().keys()
    (step,) = watched.server.query("ray_wutong_step")
    assert step["metric"]["run"] == "run"
    assert 0 < float(step["value"][1]) <= last_step(watched.start.folder) + 1
    phases = watched.server.query("sum by (run) (ray_wutong_phase)")
    assert [float(series["value"][1]) for series in phases] == [1.0]


@needs_prometheus
def test_every_alert_is_evaluated_and_this_run_needs_none_of_the_urgent(watched: Watched) -> None:
    (group,) = watched.server.get("/api/v1/rules")["groups"]
    assert len(group["rules"]) == 10
    assert {(rule["health"], rule.get("lastError", "")) for rule in group["rules"]} == {("ok", "")}
    firing = {alert["labels"]["alertname"] for alert in watched.server.get("/api/v1/alerts")["alerts"]}
    assert not firing & {"WutongNoStep", "WutongRunGone", "WutongEngineFlapping", "WutongRewardErrors"}


@needs_prometheus
def test_ray_names_the_actors_of_the_run_also_those_that_took_a_lost_one_s_place(watched: Watched) -> None:
    def actors() -> dict[str, dict[str, Any]]:
        rows = watched.ask_ray("/api/v0/actors?detail=1")["data"]["result"]["result"]
        return {row["name"]: row for row in rows if row["state"] == "ALIVE"}

    before = actors()
    assert {name: row["repr_name"] for name, row in before.items()} == {
        "run/trainer-0": "trainer-0",
        "run/rollout-0": "rollout-0",
        "run/rollout-1": "rollout-1",
    }
    os.kill(before["run/rollout-1"]["pid"], signal.SIGKILL)
    watched.start.wait_until(lambda: "run/rollout-1#2" in actors(), 60)
    watched.start.wait_until(lambda: watched.server.query('ray_wutong_restarts{of="rollout"} == 1'), 60)
    assert "run/rollout-1" not in actors()


@needs_prometheus
def test_training_goes_on_when_nobody_takes_its_metrics(watched: Watched) -> None:
    agent = watched.process("ray::DashboardAgent")
    agent.suspend()
    try:
        time.sleep(3)
        watched.steps_pass(20)
    finally:
        agent.resume()
    newest = last_step(watched.start.folder)
    watched.start.wait_until(lambda: watched.server.query(f"ray_wutong_step > {newest}"), 60)


@needs_prometheus
def test_the_timeline_of_the_run_has_all_actors_on_ray_s_clock(watched: Watched) -> None:
    """The last one: it ends the run."""
    folder = watched.start.folder
    watched.start.process.terminate()
    assert watched.start.process.wait(timeout=60) == 75
    events = json.loads((folder / "run" / "timeline.json").read_text())["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]
    rows = {e["tid"]: e["args"]["name"] for e in events if e["ph"] == "M" and e["name"] == "thread_name"}
    did = {(rows[span["tid"]], span["name"]) for span in spans if span["cat"] == "actor"}
    assert did >= {
        ("rollout-0", "load"), ("rollout-0", "sample"), ("rollout-1", "load"), ("rollout-1", "sample"),
        ("trainer-0", "learn_from"), ("trainer-0", "publish"),
    }  # fmt: skip
    assert {span["name"] for span in spans if span["cat"] == "phase"} >= {"generate", "train", "sync", "evaluate"}
    now = time.time() * 1e6
    assert all(now - 600e6 < span["ts"] < now and span["dur"] >= 0 for span in spans)
    # Each update of the ranks lies within the phase that waits for it.
    phases = [(s["ts"], s["ts"] + s["dur"]) for s in spans if s["cat"] == "phase" and s["name"] == "train"]
    updates = [(s["ts"], s["ts"] + s["dur"]) for s in spans if s["name"] == "learn_from"]
    slack = 2_000  # microseconds
    assert all(any(low - slack <= a and b <= high + slack for low, high in phases) for a, b in updates)
