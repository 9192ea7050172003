"""A reward over HTTP: who may ask, what is retried, and what a run does when nobody answers."""

import http.client
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from configs.schema.rewards import RewardPoolConfig, RewardSpec
from rewards.contract import RewardError, RewardInput, Score, Status
from rewards.pool import RewardPool
from rewards.remote import RemoteConfig, RemoteReward, RewardOutage
from rewards.server import RewardServer

TOKEN = "secret-of-this-run"
ITEMS = [RewardInput(prompt="p", response=str(at), answer="a", columns={"n": at}) for at in range(10)]


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WUTONG_REWARD_TOKEN", TOKEN)


@contextmanager
def running(server: http.server.HTTPServer) -> Iterator[str]:
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def scorer(items: Any) -> list[Score]:
    return [Score(value=float(item.response), detail="seen", parts={"n": item.columns["n"]}) for item in items]


def client(url: str, **config: Any) -> RemoteReward:
    return RemoteReward(RemoteConfig(url=url, items_per_request=4, **config), sleep=lambda seconds: time.sleep(0.001))


def test_scores_come_back_whole_and_in_order() -> None:
    with running(RewardServer(scorer, TOKEN)) as url:
        assert client(url).score_blocking(ITEMS) == scorer(ITEMS)


@pytest.mark.parametrize("route", ["/health", "/score", "/other"])
@pytest.mark.parametrize("header", [None, "Bearer wrong", "Bearer ", f"Basic {TOKEN}"])
def test_every_route_wants_the_token(route: str, header: str | None) -> None:
    with running(RewardServer(scorer, TOKEN)) as url:
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=5)
        connection.request(
            "POST" if route == "/score" else "GET", route, headers={"Authorization": header} if header else {}
        )
        response = connection.getresponse()
        body = response.read()
        connection.close()
    assert (response.status, json.loads(body)) == (401, {"error": "wrong or missing bearer token"})


def test_the_server_listens_on_the_loopback_only_unless_told_otherwise() -> None:
    server = RewardServer(scorer, TOKEN)
    assert server.url.startswith("http://127.0.0.1:")
    server.server_close()
    with pytest.raises(ValueError, match="token"):
        RewardServer(scorer, "")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"ids": ["a"], "items": []}', b'{"ids": ["a"], "items": [[1]]}'])
def test_a_request_that_is_none_is_answered_400(body: bytes) -> None:
    with running(RewardServer(scorer, TOKEN)) as url:
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=5)
        connection.request("POST", "/score", body, {"Authorization": f"Bearer {TOKEN}"})
        status = connection.getresponse().status
        connection.close()
    assert status == 400


Answer = Callable[[list[str], int], tuple[int, bytes]]


def good(ids: list[str], call: int) -> tuple[int, bytes]:
    return 200, json.dumps({"scores": [[each, [1.0, "ok", "", {}]] for each in ids]}).encode()


def server_that(answer: Answer) -> http.server.HTTPServer:
    """A server whose n-th answer is `answer(ids, n)`."""
    calls = iter(range(10**6))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, body = answer(request["ids"], next(calls))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)


def shuffled(ids: list[str], call: int) -> tuple[int, bytes]:
    return 200, json.dumps({"scores": [[each, [float(each[-1]), "ok", "", {}]] for each in reversed(ids)]}).encode()


def test_another_order_is_put_right_by_the_ids() -> None:
    with running(server_that(shuffled)) as url:
        assert [score.value for score in client(url).score_blocking(ITEMS[:4])] == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    "broken",
    [
        (503, b"busy"),
        (500, b""),
        (429, b""),
        (200, b"<html>proxy error</html>"),
        (200, b'{"scores": []}'),
        (200, b'{"scores": [["x", [1.0, "ok", "", {}]]]}'),
        (200, b'{"scores": 7}'),
    ],
)
def test_a_passing_fault_is_retried(broken: tuple[int, bytes]) -> None:
    with running(server_that(lambda ids, call: broken if call < 3 else good(ids, call))) as url:
        assert [score.value for score in client(url).score_blocking(ITEMS[:2])] == [1.0, 1.0]


def short(ids: list[str], call: int) -> tuple[int, bytes]:
    return good(ids[:-1], call)


def doubled(ids: list[str], call: int) -> tuple[int, bytes]:
    return good([*ids[:-1], ids[0]], call)


def surplus(ids: list[str], call: int) -> tuple[int, bytes]:
    return good([*ids, ids[0]], call)


def unreadable(ids: list[str], call: int) -> tuple[int, bytes]:
    return 200, json.dumps({"scores": [[each, ["high", "ok", "", {}]] for each in ids]}).encode()


@pytest.mark.parametrize("answer", [short, doubled, surplus, unreadable])
def test_a_server_that_keeps_answering_nonsense_is_named_not_believed(answer: Answer) -> None:
    with running(server_that(answer)) as url, pytest.raises(RewardError, match="no reward server of ours"):
        client(url).score_blocking(ITEMS[:3])


@pytest.mark.parametrize("status", [400, 401, 403, 404, 302])
def test_a_refusal_is_not_retried(status: int) -> None:
    calls = []

    def refuse(ids: list[str], call: int) -> tuple[int, bytes]:
        calls.append(call)
        return status, b"no"

    with running(server_that(refuse)) as url, pytest.raises(RewardError, match=f"HTTP {status}"):
        client(url).score_blocking(ITEMS[:1])
    assert calls == [0]


def test_a_server_that_stays_away_is_an_outage_and_no_zero() -> None:
    with running(server_that(lambda ids, call: (503, b""))) as url:
        pass
    with pytest.raises(RewardOutage, match=r"did not answer for 0\.3 s: ConnectionRefusedError"):
        client(url, outage_seconds=0.3).score_blocking(ITEMS[:1])


def test_a_slow_server_is_given_up_on_after_its_time() -> None:
    def slow(ids: list[str], call: int) -> tuple[int, bytes]:
        time.sleep(0.5 * (call == 0))
        return good(ids, call)

    with running(server_that(slow)) as url:
        assert client(url, timeout_seconds=0.1).score_blocking(ITEMS[:1])[0].value == 1.0


def test_while_the_circuit_is_open_only_one_request_is_out() -> None:
    lock, out, most = threading.Lock(), [0], [0]

    def count(ids: list[str], call: int) -> tuple[int, bytes]:
        with lock:
            out[0] += 1
            most[0] = max(most[0], out[0]) if call >= 8 else 0
        time.sleep(0.005)
        with lock:
            out[0] -= 1
        return (503, b"") if call < 40 else good(ids, call)

    with running(server_that(count)) as url:
        reward = client(url)
        threads = [threading.Thread(target=reward.score_blocking, args=(ITEMS[:1],)) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.15)
        probing = most[0]
        for thread in threads:
            thread.join()
    assert probing == 1


def test_a_pool_asks_a_server_where_the_rule_abstains(tmp_path: Any) -> None:
    (tmp_path / "rule.py").write_text("def rule(item): return None if item.columns['n'] % 2 else 100", encoding="utf-8")
    with running(RewardServer(scorer, TOKEN)) as url:
        specs = [RewardSpec(use="rule.py:rule"), RewardSpec(use="http", args={"url": url}, instead_of="rule")]
        pool = RewardPool(specs, RewardPoolConfig(), folder=tmp_path)
        pool.start(ITEMS)
        scores = pool.score_blocking(ITEMS[:4])
        pool.close()
    assert [score.value for score in scores] == [100.0, 1.0, 100.0, 3.0]
    assert "http" not in scores[0].parts


def test_a_client_without_token_or_url_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RewardError, match="expected http://HOST:PORT"):
        client("localhost:80")
    monkeypatch.delenv("WUTONG_REWARD_TOKEN")
    with pytest.raises(RewardError, match="WUTONG_REWARD_TOKEN holds no token"):
        client("http://127.0.0.1:1")
    with pytest.raises(RewardError, match="the args are url"):
        RewardPool([RewardSpec(use="http", args={"uri": "x"})], RewardPoolConfig())


def test_a_failing_scorer_is_a_500_and_the_server_lives_on() -> None:
    def fails_once(items: Any) -> list[Score]:
        if fails_once.calls == 0:  # type: ignore[attr-defined]
            fails_once.calls += 1  # type: ignore[attr-defined]
            raise RuntimeError("no")
        return [Score(value=None, status=Status.ABSTAIN)] * len(items)

    fails_once.calls = 0  # type: ignore[attr-defined]
    with running(RewardServer(fails_once, TOKEN)) as url:
        assert client(url).score_blocking(ITEMS[:1]) == [Score(value=None, status=Status.ABSTAIN)]
