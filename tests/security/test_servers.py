"""Promise 2: every route of every server of ours wants its token."""

from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from feedback.app import make_app
from feedback.desk import Desk
from feedback.journal import Journal
from rewards.server import RewardServer

# The page's own markup, style and script: public text of this project, which a browser asks for without a header.
PUBLIC = {"/", "/static"}


def test_every_route_of_the_label_page_wants_the_token_but_its_own_text(tmp_path: Path) -> None:
    app = make_app(Desk([], Journal(tmp_path / "judgements.jsonl"), 1), "secret")
    client = TestClient(app, base_url="http://127.0.0.1")
    routes: list[Any] = [route for route in app.routes if isinstance(route, Route | Mount)]
    assert {route.path for route in routes} >= PUBLIC | {"/next", "/judge", "/undo"}
    for route in (route for route in routes if route.path not in PUBLIC):
        for method in route.methods - {"HEAD"}:
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
                assert client.request(method, route.path, headers=headers, json={}).status_code == 401, route.path


def test_a_reward_server_takes_the_loopback_unless_it_is_told_otherwise() -> None:
    with RewardServer(lambda items: [], "secret") as server:
        assert server.server_address[0] == "127.0.0.1"
    with pytest.raises(ValueError, match="needs a token"):
        RewardServer(lambda items: [], "")
