"""A reward on another machine, over HTTP: asked until it answers, and never taken for zero when it does not."""

import asyncio
import http.client
import json
import logging
import os
import random
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from rewards import wire
from rewards.contract import RewardError, RewardInput, RewardOutage, Score

logger = logging.getLogger(__name__)

_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.2, 30.0
_FAILURES_TO_OPEN = 3  # after so many in a row one request at a time goes out, until one succeeds
_MOST_GARBLED = 5  # answers that are no answers: a server that is up but not ours
_RETRIED = (408, 425, 429)  # and all of 5xx


class _Unavailable(Exception):
    """This attempt failed; another may not."""


class _Garbled(_Unavailable):
    """The server answered what no reward server answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteConfig:
    """Where the server is and how long it is waited for. `token_env` names the variable that holds the token."""

    url: str
    token_env: str = "WUTONG_REWARD_TOKEN"
    timeout_seconds: float = 60.0
    outage_seconds: float = 600.0
    items_per_request: int = 64


class RemoteReward:
    """The client of a reward server. Fulfils `rewards.contract.Scorer`; any thread may call it."""

    def __init__(self, config: RemoteConfig, sleep: Callable[[float], None] = time.sleep) -> None:
        self._config = config
        self._parts = urlsplit(config.url)
        if self._parts.scheme not in ("http", "https") or not self._parts.hostname:
            raise RewardError(f"rewards: http: url={config.url!r}: expected http://HOST:PORT or https://HOST")
        self._token = os.environ.get(config.token_env, "")
        if not self._token:
            raise RewardError(f"rewards: http: the environment variable {config.token_env} holds no token")
        self._sleep = sleep
        self._failures = 0
        self._probe = threading.Lock()

    def check(self, items: Sequence[RewardInput]) -> None:
        """Ask about these once; RewardError when the server refuses, RewardOutage when it stays away."""
        self.score_blocking(items)

    async def score(self, items: Sequence[RewardInput]) -> list[Score]:
        """One score for each item, in order. RewardOutage when the server stays away, RewardError when it refuses."""
        return await asyncio.to_thread(self.score_blocking, items)

    def score_blocking(self, items: Sequence[RewardInput]) -> list[Score]:
        """`score` for callers without an event loop."""
        size = self._config.items_per_request
        return [score for at in range(0, len(items), size) for score in self._ask(items[at : at + size])]

    def _ask(self, items: Sequence[RewardInput]) -> list[Score]:
        """One request, repeated with growing, uneven pauses while the server is away."""
        url, patience = self._config.url, self._config.outage_seconds
        started, pause, garbled = time.monotonic(), _SHORTEST_PAUSE, 0
        while True:
            try:
                scores = self._attempt(items)
            except _Unavailable as error:
                garbled += isinstance(error, _Garbled)
                if garbled >= _MOST_GARBLED:
                    raise RewardError(f"rewards: http: {url} is no reward server of ours: {error}") from error
                if time.monotonic() - started + pause > patience:
                    raise RewardOutage(f"the reward server {url} did not answer for {patience:g} s: {error}") from error
                logger.warning("reward server %s: %s; again in %.1f s", url, error, pause)
                self._sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                return scores

    def _attempt(self, items: Sequence[RewardInput]) -> list[Score]:
        """One request. While the circuit is open (the last few failed) only one thread at a time sends one."""
        if self._failures < _FAILURES_TO_OPEN:
            return self._counted(items)
        with self._probe:
            return self._counted(items)

    def _counted(self, items: Sequence[RewardInput]) -> list[Score]:
        try:
            scores = self._request(items)
        except _Unavailable:
            self._failures += 1
            raise
        self._failures = 0
        return scores

    def _request(self, items: Sequence[RewardInput]) -> list[Score]:
        nonce = secrets.token_hex(8)
        ids = [f"{nonce}-{place}" for place in range(len(items))]
        body = wire.encode({"ids": ids, "items": wire.dump_inputs(items)})
        status, answer = self._post(body)
        if status in _RETRIED or status >= 500:
            raise _Unavailable(f"HTTP {status}")
        if status != 200:
            raise RewardError(f"rewards: http: {self._config.url} answered HTTP {status}: {answer[:200]!r}")
        return _matched(answer, ids)

    def _post(self, body: bytes) -> tuple[int, bytes]:
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(self._parts.hostname or "", self._parts.port, timeout=self._config.timeout_seconds)
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        try:
            connection.request("POST", self._parts.path.rstrip("/") + "/score", body, headers)
            response = connection.getresponse()  # a redirect is not followed: the token is for this server alone
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise _Unavailable(f"{type(error).__name__}: {error}") from error
        finally:
            connection.close()


def _matched(answer: bytes, ids: Sequence[str]) -> list[Score]:
    """The scores in the order of `ids`, whatever the server's; _Garbled unless each came back once."""
    try:
        rows: dict[str, Any] = dict(json.loads(answer)["scores"])
        count = len(json.loads(answer)["scores"])
    except (ValueError, KeyError, TypeError) as error:
        raise _Garbled(f"its answer is no list of scores: {answer[:100]!r}") from error
    if count != len(ids) or rows.keys() != set(ids):
        raise _Garbled(f"{len(ids)} samples were sent and {count} scores came back, or with other ids")
    try:
        return [wire.load_score(rows[each]) for each in ids]
    except (ValueError, TypeError) as error:
        raise _Garbled(f"a score of it cannot be read: {error}") from error
