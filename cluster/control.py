"""Steering a run from outside: a request is a file in the run's folder, and so is its answer.

    control/20261126T123456.789012-3f2a91bc.json          what is asked, renamed into place
    control/20261126T123456.789012-3f2a91bc.answer.json   what came of it

Whoever may write to the folder may steer the run, from any machine that sees it; nothing listens on a port.
"""

import asyncio
import contextlib
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from metrics.waits import waited
from metrics.whole_file import whole_file

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 0.5
FOLDER = "control"


class Message(BaseModel):
    """What a file holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ScaleRequest(Message):
    """So many rollout workers from now on."""

    kind: Literal["scale"] = "scale"
    rollout: int = Field(ge=1, le=4096)


class StopRequest(Message):
    """End after the step under way, as after SIGTERM."""

    kind: Literal["stop"] = "stop"


Request = Annotated[ScaleRequest | StopRequest, Field(discriminator="kind")]
_REQUEST: TypeAdapter[ScaleRequest | StopRequest] = TypeAdapter(Request)


class Answer(Message):
    """What came of a request, in one line."""

    is_done: bool
    text: str


def ask(folder: Path, request: ScaleRequest | StopRequest, seconds: float) -> Answer:
    """Send a request to the run that owns `folder`, and wait for what comes of it. ValueError when it says nothing."""
    control = folder / FOLDER
    control.mkdir(mode=0o750, exist_ok=True)
    place = control / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}-{uuid.uuid4().hex[:8]}.json"
    answer = _answer_of(place)
    _write(place, request.model_dump_json())
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer.exists():
            found = Answer.model_validate_json(answer.read_text())
            answer.unlink()
            return found
        time.sleep(SECONDS_BETWEEN_LOOKS / 5)
    place.unlink(missing_ok=True)
    raise ValueError(f"{folder}: the run did not answer within {seconds:g} s; `wutong status {folder}` tells its state")


Handler = Callable[[Any], Awaitable[str]]  # what came of the request; ValueError: why it is refused


class Desk:
    """The driver's side: carries out requests for as long as `serving` lasts."""

    def __init__(self, folder: Path, handlers: Mapping[type[Message], Handler]) -> None:
        self._folder = folder / FOLDER
        self._handlers = handlers
        self._at_work: dict[Path, asyncio.Task[None]] = {}

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Requests that were left from an earlier run are not for this one."""
        self._folder.mkdir(mode=0o750, exist_ok=True)
        for path in self._folder.glob("*.json"):
            path.unlink()
        task = asyncio.create_task(self._serve())
        try:
            yield
        finally:
            tasks = [task, *self._at_work.values()]
            for each in tasks:
                each.cancel()
            await waited(asyncio.gather(*tasks, return_exceptions=True), what="the end", owner="requests")
            for path in _requests(self._folder):
                _reply(path, Answer(is_done=False, text="the run has ended"))

    async def _serve(self) -> None:
        while True:
            for path in _requests(self._folder):
                if path not in self._at_work:
                    self._at_work[path] = task = asyncio.create_task(self._carry_out(path))
                    task.add_done_callback(lambda _, path=path: self._at_work.pop(path))
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)

    async def _carry_out(self, path: Path) -> None:
        try:
            request = _read(path)
            handler = self._handlers.get(type(request))
            if handler is None:
                raise ValueError(f"a run of this stage can't be asked to {request.kind}")
            answer = Answer(is_done=True, text=await handler(request))
        except ValidationError as error:
            answer = Answer(is_done=False, text=f"{path.name}: not a request: {error.errors()[0]['msg']}")
        except Exception as error:  # noqa: BLE001 - a request that is not answered would be carried out again
            answer = Answer(is_done=False, text=str(error))
        logger.info("%s: %s", path.name, answer.text)
        _reply(path, answer)


def _requests(folder: Path) -> list[Path]:
    """Oldest first."""
    return sorted(path for path in folder.glob("*.json") if not path.name.endswith(".answer.json"))


def _read(path: Path) -> ScaleRequest | StopRequest:
    return _REQUEST.validate_json(path.read_text())


def _reply(request: Path, answer: Answer) -> None:
    _write(_answer_of(request), answer.model_dump_json())
    request.unlink(missing_ok=True)


def _answer_of(request: Path) -> Path:
    return request.with_suffix(".answer.json")


def _write(path: Path, text: str) -> None:
    """Whole or not at all for whoever reads it."""
    with whole_file(path) as draft:
        draft.write_text(text + "\n")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """See `_write`."""
    _write(path, json.dumps(content, indent=1))
