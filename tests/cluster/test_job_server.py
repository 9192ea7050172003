"""Speaking to a job server that is not there, wants a token or is of another version; following a log that is cut.

What answers here is an HTTP server of the test, since no other version of Ray is installed; a real one is in
test_submitted_runs.py.
"""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import ray

from cluster import jobs
from cluster.job_server import Job, JobServer
from cluster.jobs import DriverRoom
from cluster.parcel import Parcel
from tests.cluster.heads import free_ports
from tests.cluster.tiny_recipes import recipe


@contextmanager
def answering(status: int, body: str) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (200, json.dumps({"ray_version": "2.44.1"}), r"the cluster has Ray 2\.44\.1, and here is 2\.\d"),
        (401, "Unauthorized: Missing authentication token", "the cluster wants a token, and none was found; set"),
        (403, "Forbidden: Invalid authentication token", "the cluster refuses the token; set RAY_AUTH_TOKEN"),
        (404, "nothing", "Version check returned 404"),
        (200, "<html>", "no Ray cluster answers there"),
    ],
)  # fmt: skip
def test_what_can_not_be_spoken_to_is_told_in_one_line(status: int, body: str, words: str) -> None:
    with answering(status, body) as url, pytest.raises(ValueError, match=words) as refused:
        JobServer(url)
    assert str(refused.value).startswith(url)
    assert "\n" not in str(refused.value)


def test_an_address_where_nobody_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://10.255.255.1:1")  # Ray would take it in place of ours
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(ValueError, match=f"{url}: no Ray cluster answers there"):
        JobServer(url)
    with pytest.raises(ValueError, match="want the address of the cluster's dashboard, such as http://HEAD:8265"):
        JobServer("head:6379")


def test_a_cluster_that_asks_for_no_token_gets_no_run(tmp_path: Path) -> None:
    run, parcel = recipe("pretrain", tmp_path), Parcel(items=(), recipe=PurePosixPath(), left_out=())
    words = "the cluster asks for no token, so whoever reaches it can run code on it"
    with answering(200, json.dumps({"ray_version": ray.__version__})) as url, pytest.raises(ValueError, match=words):
        jobs.submit(JobServer(url), run, parcel, "", DriverRoom())


class CutLine(JobServer):
    """Its log is cut twice, in the middle."""

    def __init__(self) -> None:
        self.address, self._num_calls = "http://here", 0

    async def followed(self, job_id: str) -> AsyncIterator[str]:
        self._num_calls += 1
        yield "one\ntw"
        if self._num_calls == 1:
            raise ConnectionError
        yield "o\nthree\n"

    def log(self, job_id: str) -> str:
        return "one\ntwo\nthree\nfour\n"

    def look(self, job_id: str) -> Job:
        state = "running" if self._num_calls < 2 else "finished"
        facts = dict.fromkeys(("run", "stage", "model", "folder", "message"), "")
        began = datetime(2026, 1, 1, tzinfo=UTC)
        return Job(id=job_id, state=state, began=began, exit_code=None, node=None, runtime_env={}, **facts)


def test_a_log_is_shown_once_however_often_the_line_is_cut() -> None:
    shown: list[str] = []
    job = asyncio.run(jobs.follow(CutLine(), "mine-1", shown.append))
    assert "".join(shown) == "one\ntwo\nthree\nfour\n"
    assert job.state == "finished"
