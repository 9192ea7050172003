"""How a run stands, in `status.json` of its folder: written by its driver about once a second, read by anybody."""

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.control import write_json

if TYPE_CHECKING:  # an errand that only reads needs no Ray
    from actors.fleet import RolloutFleet

SECONDS_BETWEEN_WRITES = 1.0
STALE_SECONDS = 15.0  # without a word from the driver: it is gone, or its machine can't be reached

GOING_ON = ("starting", "running")  # the states that a driver must be there for

Snapshot = Callable[[], Mapping[str, Any]]


class StatusFile:
    """Keeps the file up to date."""

    def __init__(self, path: Path, *, run: str, num_steps: int) -> None:
        self._path = path
        self._identity = {"run": run, "host": socket.gethostname(), "pid": os.getpid()}
        self._num_steps = num_steps
        self.state = "starting"
        self.snapshot: Snapshot = dict  # what else is told; what trains sets it

    def write(self) -> None:
        """Now. A disk without room keeps the last one."""
        content = {
            **self._identity,
            "state": self.state,
            "num_steps": self._num_steps,
            "updated": datetime.now(UTC).isoformat(timespec="seconds"),
            **self.snapshot(),
        }
        with contextlib.suppress(OSError):
            write_json(self._path, content)

    @contextlib.asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Written again and again inside, and once more at the end, whatever that is."""
        task = asyncio.create_task(self._keep())
        try:
            yield
        except BaseException:  # also when it is cancelled: the last word must not be "running"
            self.state = "failed"
            raise
        finally:
            task.cancel()
            self.write()

    async def _keep(self) -> None:
        while True:
            self.write()
            await asyncio.sleep(SECONDS_BETWEEN_WRITES)


def read_status(path: Path) -> dict[str, Any]:
    """The file's content; `state` is "lost" when a run that should be there has not written for a while.

    ValueError when there is none.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except OSError:
        raise ValueError(f"{path.parent}: no run has been here; RUN is a run's folder, such as runs/my-run") from None
    silent = datetime.now(UTC) - datetime.fromisoformat(content["updated"])
    if content["state"] in GOING_ON and silent.total_seconds() > STALE_SECONDS:
        content["state"] = "lost"
    return content


def workers(fleet: "RolloutFleet") -> list[dict[str, Any]]:
    """Each place of the fleet, and what stands in it; those that are to leave are there until they have left."""
    found = []
    for name in fleet.places:
        worker = fleet.workers.get(name)
        if worker is None:
            found.append({"name": name, "state": "starting" if name in fleet.names else "leaving"})
            continue
        found.append(
            {
                "name": name,
                "node": worker.node,
                "state": worker.state,
                "version": None if worker.weights is None else worker.weights.version,
                "groups": len(worker.leased),
                "tokens": worker.pace.progress.num_tokens,
                "slowness": round(worker.pace.slowness, 1),
            }
        )
    return found
