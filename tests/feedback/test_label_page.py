"""The page as labellers use it: keys and clicks in Chromium, kills of the server, five people at once, axe."""

import json
import random
import re
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from feedback.journal import Judgement, read_judgements
from tests.chromium import Chromium, Page, chromium, needs_chromium

pytestmark = needs_chromium

WUTONG = Path(sys.executable).with_name("wutong")
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>\u202egnp.exe\u0007"


class Server:
    """`wutong label` in a process of its own, on a port that stays the same when it is started again."""

    def __init__(self, folder: Path, *arguments: str, num_pairs: int = 100) -> None:
        self.data = folder / "pairs.jsonl"
        rows = [
            {"prompt": f"prompt {n} {HOSTILE}", "responses": [f"first {n}", f"second {n}"]} for n in range(num_pairs)
        ]
        self.data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._arguments = arguments
        self.start()

    @property
    def judgements(self) -> list[Judgement]:
        return read_judgements(self.folder / "judgements.jsonl")

    @property
    def pairs(self) -> dict[str, Any]:
        """What is judged, by id."""
        lines = (self.folder / "pairs.jsonl").read_text().splitlines()
        return {one["id"]: one for one in map(json.loads, lines)}

    @property
    def folder(self) -> Path:
        return self.data.with_name("pairs.jsonl.labels")

    def start(self) -> None:
        command = [str(WUTONG), "label", str(self.data), "--port", str(self.port), *self._arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.search(r"http://\S+", line):
                self.address = found.group()
                return
        raise AssertionError("the server ended")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.kill()


def sign_in(page: Page, server: Server, name: str = "ann") -> None:
    page.open(server.address)
    page.wait("!document.getElementById('sign-in').hidden")
    page.type(name)
    page.press("Enter")
    page.wait("!document.getElementById('judging').hidden")


def ready(page: Page) -> None:
    page.wait("document.querySelector('main button:disabled') === null")


def shown(page: Page) -> dict[str, str]:
    return {side: page.js(f"document.getElementById('{side}').textContent") for side in ("prompt", "left", "right")}


def judge(page: Page, key: str) -> dict[str, str]:
    """What was judged; returns when the next pair is shown."""
    before = shown(page)
    page.press(key)
    page.wait(f"document.getElementById('prompt').textContent !== {json.dumps(before['prompt'])}")
    ready(page)
    return before


def test_keys_and_clicks_judge_what_is_shown(browser: Chromium, server: Server) -> None:
    with browser.page() as page:
        sign_in(page, server)
        judged = [judge(page, key) for key in "1234"]
        before = shown(page)
        page.click("[data-choice=right]")
        page.wait(f"document.getElementById('prompt').textContent !== {json.dumps(before['prompt'])}")
        assert [one.choice for one in server.judgements] == ["left", "right", "tie", "both_bad", "right"]
        for one, seen in zip(server.judgements, [*judged, before], strict=True):
            assert server.pairs[one.pair]["responses"][one.left] == seen["left"]
        assert page.js("document.getElementById('own').textContent") == "5 by you"
        assert page.console == []
        assert all(address.startswith((f"http://127.0.0.1:{server.port}/", "data:")) for address in page.requests)


def test_undo_brings_the_pair_back_and_another_judgement_replaces_it(browser: Chromium, server: Server) -> None:
    with browser.page() as page:
        sign_in(page, server)
        judge(page, "1")
        second = judge(page, "1")
        page.press("u")
        page.wait(f"document.getElementById('prompt').textContent === {json.dumps(second['prompt'])}")
        ready(page)
        judge(page, "2")
        assert [one.choice for one in server.judgements] == ["left", "right"]


def test_texts_of_models_are_shown_and_not_obeyed(browser: Chromium, server: Server) -> None:
    with browser.page() as page:
        sign_in(page, server)
        text = shown(page)["prompt"]
        assert "<img src=x onerror=alert(1)><script>alert(2)</script>" in text
        assert "<U+202E>gnp.exe<U+0007>" in text
        assert page.js("document.querySelectorAll('main img, main script').length") == 0


def test_a_page_loaded_again_shows_the_same_pair_to_the_same_labeller(browser: Chromium, server: Server) -> None:
    with browser.page() as page:
        sign_in(page, server)
        judge(page, "1")
        before = shown(page)
        page.open(server.address)
        page.wait("!document.getElementById('judging').hidden")
        ready(page)
        assert shown(page) == before


def test_twenty_kills_of_the_server_lose_no_judgement(browser: Chromium, server: Server) -> None:
    chance = random.Random(0)
    given: list[tuple[str, str]] = []
    with browser.page() as page:
        sign_in(page, server)
        for number in range(60):
            before, key = shown(page), chance.choice("1234")
            is_struck = number % 3 == 0
            page.press(key)
            if is_struck:
                time.sleep(chance.uniform(0, 0.02))
                server.kill()
                server.start()
            page.wait(f"document.getElementById('prompt').textContent !== {json.dumps(before['prompt'])}")
            ready(page)
            given.append((before["prompt"].split()[1], key))
        choices = {"left": "1", "right": "2", "tie": "3", "both_bad": "4"}
        pairs = server.pairs
        kept = [(pairs[one.pair]["prompt"].split()[1], choices[one.choice]) for one in server.judgements]
        assert kept == given


def test_five_labellers_at_once_judge_all_pairs_once(browser: Chromium, tmp_path: Path) -> None:
    server = Server(tmp_path, num_pairs=30)

    def work(name: str) -> None:
        with browser.page() as page:
            sign_in(page, server, name)
            while page.js("document.getElementById('finished').hidden"):
                page.press("1")
                ready(page)

    try:
        with ThreadPoolExecutor(5) as pool:
            list(pool.map(work, [f"labeller {number}" for number in range(5)]))
        counts = Counter(one.pair for one in server.judgements)
        assert len(counts) == 30 and set(counts.values()) == {1}
        assert len({one.labeller for one in server.judgements}) == 5
    finally:
        server.kill()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: Chromium, server: Server, scheme: str) -> None:
    axe = (files("axe_playwright_python") / "axe.min.js").read_text()
    with browser.page() as page:
        page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        page.open(server.address)
        page.wait("!document.getElementById('sign-in').hidden")
        for _ in range(2):  # the sign-in, then a pair
            page.call("Runtime.evaluate", expression=axe)
            violations = page.js("axe.run().then((found) => found.violations.map((one) => [one.impact, one.help]))")
            assert [one for one in violations if one[0] in ("serious", "critical")] == []
            if page.js("document.getElementById('judging').hidden"):
                sign_in(page, server)


def asked(server: Server, path: str, token: str, host: str | None = None) -> int:
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}{path}", data=b'{"labeller": "ann"}', method="POST"
    )
    request.add_header("Content-Type", "application/json")
    request.add_header("Authorization", f"Bearer {token}")
    if host:
        request.add_header("Host", host)
    try:
        return urllib.request.urlopen(request, timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code


def test_without_the_token_nothing_is_told(server: Server) -> None:
    token = server.address.partition("token=")[2]
    for path in ("/next", "/judge", "/undo"):
        assert asked(server, path, "wrong") == 401
    assert asked(server, "/next", token) == 200
    assert asked(server, "/next", token, host="evil.example") == 400
    assert stat.S_IMODE((server.folder / "token").stat().st_mode) == 0o600


def test_report_and_export_tell_what_came_of_it(browser: Chromium, server: Server) -> None:
    with browser.page() as page:
        sign_in(page, server)
        for key in "1123":
            judge(page, key)
    out = server.data.with_name("comparisons.parquet")
    command = [str(WUTONG), "label", str(server.data), "--report", "--export", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "3 comparisons; 1 pairs say nothing" in " ".join(done.stdout.split())
    assert "by ann" in done.stdout and "left preferred" in done.stdout
    assert out.exists()


def test_before_any_judgement_a_report_is_refused(tmp_path: Path) -> None:
    command = [str(WUTONG), "label", str(tmp_path / "f.jsonl"), "--report"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "no judgements yet" in done.stderr
