"""The report on a run that stands still: who waits for whom, what stands in the queues, where every process is."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors import stacks
from actors.stacks import Told
from metrics import waits
from metrics.waits import Wait, waited

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_REPORTS = 30.0  # what hangs because something else hangs is told in the same file
_SECONDS_FOR_A_NODE = 15.0


class Doctor:
    """Writes `hang-TIME.txt` into a run's folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = asyncio.Lock()
        self._newest: tuple[float, Path] | None = None

    async def report(self, cause: str, detail: str) -> Path:
        """Look at everything now; the file that tells of it, `detail` included. OSError when it can't be written."""
        async with self._lock:
            if self._newest is not None and time.monotonic() - self._newest[0] < _SECONDS_BETWEEN_REPORTS:
                with self._newest[1].open("a") as file:
                    file.write(f"\nthen: {cause}\n")
                return self._newest[1]
            moment = datetime.now(UTC)
            register = [*_register(waits.pending())]  # before this look adds waits of its own
            parts = [
                f"{moment:%Y-%m-%d %H:%M:%S} UTC: {cause}",
                *([detail] if detail else []),
                _section("Who is waited for", register),
                _section("Queues", [f"{name}: {text}" for name, text in waits.gauges().items()]),
                _section("Actors", [_told(told) for told in await _actors_or_why_not()]),
                _section("Driver: threads", [stacks.own_stacks()]),
                _section("Driver: tasks", _tasks()),
            ]
            path = self._folder / f"hang-{moment:%Y%m%dT%H%M%SZ}.txt"
            path.write_text("\n".join(parts))
            self._newest = time.monotonic(), path
            logger.warning("%s; report: %s", cause, path)
            return path


def _section(title: str, lines: Iterable[str]) -> str:
    return "\n".join([f"\n{title}", "=" * len(title), *(lines or ["none"])])


def _register(pending: list[Wait]) -> Iterable[str]:
    """Waits of one kind in one line: thousands of groups may be in flight."""
    alike: dict[tuple[str, str], list[Wait]] = {}
    for wait in pending:
        alike.setdefault((wait.owner, wait.what), []).append(wait)
    for oldest, *others in alike.values():
        yield f"{oldest}{f' ({len(others)} more since then)' if others else ''}"


def _told(told: Told) -> str:
    return f"{told.name} (process {told.pid})\n{told.text}"


async def _actors_or_why_not() -> list[Told]:
    try:
        with waits.watched_by(None):  # these waits are looked at by nobody else
            return await _actors()
    except Exception as error:  # noqa: BLE001 - a report with a hole is better than none
        return [Told(name="Ray", pid=0, text=f"{type(error).__name__}: {error}\n")]


async def _actors() -> list[Told]:
    """What the actors of all nodes say. A node that does not answer in time has a line in its place."""
    if not ray.is_initialized():
        return []
    session, here = stacks.session(), ray.get_runtime_context().get_node_id()
    nodes = await waited(
        asyncio.to_thread(ray.nodes), what="the list of nodes", owner="Ray", seconds=_SECONDS_FOR_A_NODE
    )
    others = [node["NodeID"] for node in nodes if node["Alive"] and node["NodeID"] != here]
    parts = await asyncio.gather(_here(session), *(_there(node, session) for node in others))
    return [told for part in parts for told in part]


async def _here(session: str) -> list[Told]:
    return await waited(asyncio.to_thread(stacks.told_here, session), what="stacks", owner="this machine")


async def _there(node: str, session: str) -> list[Told]:
    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    look = ray.remote(stacks.told_here).options(num_cpus=0, max_retries=0, scheduling_strategy=strategy)
    try:
        return await waited(look.remote(session), what="stacks", owner=f"node {node}", seconds=_SECONDS_FOR_A_NODE)
    except Exception as error:  # noqa: BLE001 - a report with a hole is better than none
        return [Told(name=f"node {node}", pid=0, text=f"{type(error).__name__}: {error}\n")]


def _tasks() -> list[str]:
    """Where each task of the event loop waits; tasks at the same place are counted."""
    places = Counter(_place(task) for task in asyncio.all_tasks() if task is not asyncio.current_task())
    return [f"{count} x {place}" for place, count in places.most_common()]


def _place(task: "asyncio.Task[object]") -> str:
    coroutine, lines = task.get_coro(), []
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None)
        if frame is None:
            lines.append(f"  {type(coroutine).__name__}")
            break
        lines.append(f"  {frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}")
        coroutine = getattr(coroutine, "cr_await", None)
    return "\n".join(["", *lines])
