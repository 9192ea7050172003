"""Requests in a run's folder: answered once, by the run that is there."""

import asyncio
import fcntl
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from cluster.control import SECONDS_BETWEEN_LOOKS, Answer, Desk, ScaleRequest, StopRequest, ask
from cluster.errand import ended
from cluster.status import StatusFile, read_status


def served(folder: Path, act: Callable[[], Awaitable[None]]) -> None:
    async def scale(request: ScaleRequest) -> str:
        if request.rollout > 8:
            raise ValueError("no room for 9")
        return f"now {request.rollout}"

    async def serve() -> None:
        async with Desk(folder, {ScaleRequest: scale}).serving():
            await act()

    asyncio.run(serve())


def asked(folder: Path, request: ScaleRequest | StopRequest) -> Answer:
    found: list[Answer] = []

    async def act() -> None:
        found.append(await asyncio.to_thread(ask, folder, request, 10))

    served(folder, act)
    return found[0]


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (ScaleRequest(rollout=3), Answer(is_done=True, text="now 3")),
        (ScaleRequest(rollout=9), Answer(is_done=False, text="no room for 9")),
        (StopRequest(), Answer(is_done=False, text="a run of this stage can't be asked to stop")),
    ],
)
def test_a_request_is_answered_and_leaves_nothing(
    tmp_path: Path, request_: ScaleRequest | StopRequest, answer: Answer
) -> None:
    assert asked(tmp_path, request_) == answer
    assert list((tmp_path / "control").iterdir()) == []


def test_what_is_no_request_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    async def act() -> None:
        bad = tmp_path / "control" / "1.json"
        bad.write_text('{"kind": "scale", "rollout": -1}')
        await asyncio.sleep(2 * SECONDS_BETWEEN_LOOKS)
        answer = Answer.model_validate_json((tmp_path / "control" / "1.answer.json").read_text())
        assert not answer.is_done
        assert answer.text.startswith("1.json: not a request: Input should be greater than or equal to 1")

    served(tmp_path, act)


def test_a_request_that_fails_is_answered_and_not_tried_again(tmp_path: Path) -> None:
    tried: list[int] = []

    async def fail(request: ScaleRequest) -> str:
        tried.append(request.rollout)
        raise RuntimeError("rollout-1 was lost")

    async def serve() -> Answer:
        async with Desk(tmp_path, {ScaleRequest: fail}).serving():
            answer = await asyncio.to_thread(ask, tmp_path, ScaleRequest(rollout=2), 10)
            await asyncio.sleep(2 * SECONDS_BETWEEN_LOOKS)
        return answer

    assert asyncio.run(serve()) == Answer(is_done=False, text="rollout-1 was lost")
    assert tried == [2]


def test_requests_of_an_earlier_run_are_not_carried_out(tmp_path: Path) -> None:
    old = tmp_path / "control" / "1.json"
    old.parent.mkdir()
    old.write_text(ScaleRequest(rollout=2).model_dump_json())

    async def act() -> None:
        await asyncio.sleep(0)
        assert not old.exists()
        assert not old.with_suffix(".answer.json").exists()

    served(tmp_path, act)


def test_whoever_waits_when_the_run_ends_is_told(tmp_path: Path) -> None:
    async def forever(request: ScaleRequest) -> str:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    async def serve() -> Answer:
        async with Desk(tmp_path, {ScaleRequest: forever}).serving():
            waiting = asyncio.create_task(asyncio.to_thread(ask, tmp_path, ScaleRequest(rollout=2), 10))
            await asyncio.sleep(1)
        return await waiting

    assert asyncio.run(serve()) == Answer(is_done=False, text="the run has ended")


def test_nobody_there_is_told_in_time(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the run did not answer within 0\.3 s"):
        ask(tmp_path, StopRequest(), 0.3)
    assert list((tmp_path / "control").iterdir()) == []


def test_a_run_that_has_not_written_for_long_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = StatusFile(tmp_path / "status.json", run="mine", num_steps=7)
    file.state = "running"
    file.write()
    assert read_status(tmp_path / "status.json")["state"] == "running"
    monkeypatch.setattr("cluster.status.STALE_SECONDS", -1.0)
    assert read_status(tmp_path / "status.json")["state"] == "lost"


def test_a_folder_without_a_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no run has been here"):
        read_status(tmp_path / "status.json")


def test_a_run_has_ended_when_its_folder_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = StatusFile(tmp_path / "status.json", run="mine", num_steps=7)
    file.state = "stopped"
    file.write()
    with (tmp_path / "lock").open("w") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        let_go = threading.Timer(0.5, fcntl.flock, (owner, fcntl.LOCK_UN))
        let_go.start()
        assert ended(tmp_path)["state"] == "stopped"
        assert let_go.finished.is_set()
        fcntl.flock(owner, fcntl.LOCK_EX)
        monkeypatch.setattr("cluster.errand.SECONDS_TO_LET_GO", 0.2)
        with pytest.raises(ValueError, match=rf"stopped, but its process {os.getpid()} on .* is still there"):
            ended(tmp_path)
