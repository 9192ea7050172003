"""A reward over HTTP: rules or a model behind one route, for runs on other machines."""

import hmac
import http.server
import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

from rewards import wire
from rewards.contract import RewardInput, Score

logger = logging.getLogger(__name__)

ScoreFunction = Callable[[Sequence[RewardInput]], Sequence[Score]]

_LARGEST_BODY = 64 << 20
_SECONDS_TO_READ = 60.0


class RewardServer(http.server.ThreadingHTTPServer):
    """Answers `POST /score` and `GET /health`, both only to callers who bear the token."""

    daemon_threads = True

    def __init__(self, scorer: ScoreFunction, token: str, host: str = "127.0.0.1", port: int = 0) -> None:
        """Binds at once; `port` 0 takes a free one (see `url`). ValueError for an empty token."""
        if not token:
            raise ValueError("a reward server needs a token")
        super().__init__((host, port), _Handler)
        self.scorer = scorer
        self.token = token

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self.server_address[0]}:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: RewardServer  # pyright: ignore[reportIncompatibleVariableOverride]
    timeout = _SECONDS_TO_READ

    def do_GET(self) -> None:
        if not self._is_allowed():
            return None
        if self.path == "/health":
            return self._answer(200, {"status": "ok"})
        return self._answer(404, {"error": f"no route {self.path!r}; GET /health"})

    def do_POST(self) -> None:
        if not self._is_allowed():
            return None
        if self.path != "/score":
            return self._answer(404, {"error": f"no route {self.path!r}; POST /score"})
        size = self.headers.get("Content-Length", "")
        if not size.isdigit() or int(size) > _LARGEST_BODY:
            return self._answer(413, {"error": f"need a Content-Length of at most {_LARGEST_BODY}"})
        try:
            request = json.loads(self.rfile.read(int(size)))
            ids, items = list(request["ids"]), wire.load_inputs(request["items"])
            if len(ids) != len(items):
                raise ValueError(f"{len(ids)} ids for {len(items)} items")
        except (ValueError, KeyError, TypeError) as error:
            return self._answer(400, {"error": f"not a score request: {error}"})
        return self._score(ids, items)

    def _score(self, ids: Sequence[str], items: Sequence[RewardInput]) -> None:
        try:
            scores = self.server.scorer(items)
        except Exception:
            logger.exception("scoring %d samples failed", len(items))
            return self._answer(500, {"error": "scoring failed; see the server's log"})
        return self._answer(200, {"scores": [[each, wire.dump_score(s)] for each, s in zip(ids, scores, strict=True)]})

    def _is_allowed(self) -> bool:
        given = self.headers.get("Authorization", "")
        if hmac.compare_digest(given.encode(), f"Bearer {self.server.token}".encode()):
            return True
        self._answer(401, {"error": "wrong or missing bearer token"})
        return False

    def _answer(self, status: int, message: Any) -> None:
        body = wire.encode(message)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug(format, *args)
