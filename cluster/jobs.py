"""Runs as jobs of a Ray cluster: sent there, looked at, scaled and stopped from any machine with its address and token.

What needs the run's folder - how it stands, another number of workers, a stop - is an errand: a small job, with the
run's own code, on the node of its driver (cluster/errand.py).
"""

import asyncio
import contextlib
import json
import logging
import math
import shlex
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any, Final

from cluster.errand import SECONDS_TO_SCALE, SECONDS_TO_STOP
from cluster.job_server import FOLDER, MODEL, RUN, STAGE, Job, JobServer
from cluster.parcel import JOB, Parcel
from cluster.status import GOING_ON
from configs.redaction import redact
from configs.schema import Run
from metrics.waits import waited

logger = logging.getLogger(__name__)

PROGRAM: Final = ("python", "-P", "-m", "cli")  # nothing of ours is installed on the cluster
_SECONDS_BETWEEN_LOOKS: Final = 0.3
_SECONDS_TO_START: Final = 90.0  # an errand, on a busy machine
_SECONDS_TO_LOOK: Final = 30.0
_SECONDS_OF_SILENCE: Final = 60.0
_RECONNECTS: Final = 10  # in a row, to follow a log
_PATIENCE: Final = "RAY_JOB_STOP_WAIT_TIME_S"
_NODE_LABEL: Final = "ray.io/node-id"


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverRoom:
    """What the cluster keeps free for a run's driver, on any node; with nothing asked it is on the head."""

    cpus: float = 0
    memory_bytes: int = 0
    resources: Mapping[str, float] = field(default_factory=dict)


def command(recipe: PurePath, overrides: Sequence[str], options: Sequence[str]) -> str:
    """What the job's shell runs; `options`: more of `wutong train`."""
    words = [*PROGRAM, "train", str(recipe), *overrides, "cluster.address=auto", *options]
    return f"cd {JOB} && exec {shlex.join(words)}"


def submit(server: JobServer, run: Run, parcel: Parcel, entry: str, room: DriverRoom) -> str:
    """Send a run there; its job's id. ValueError when a run of its name goes on there, or anybody may send one."""
    _check_is_guarded(server, is_insecure=run.cluster.insecure)
    for job in server.jobs():
        if job.run == run.name and not job.is_over:
            raise ValueError(
                f"{server.address}: a run {run.name!r} goes on there ({job.id}, {job.state}); `wutong stop {run.name} "
                f"--address {server.address}` ends it, or choose another name (name=...)"
            )
    # As long as an update and a save may take, before Ray kills what it told to end.
    patience = {_PATIENCE: str(int(run.grace_seconds + run.hang_timeout_seconds))}
    with tempfile.TemporaryDirectory(prefix="wutong-") as folder:
        parcel.lay_out(Path(folder))
        return server.submit(
            entry,
            submission_id=f"{run.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:4]}",
            runtime_env={"working_dir": folder, "env_vars": patience},
            metadata=metadata(run),
            entrypoint_num_cpus=room.cpus or None,
            entrypoint_memory=room.memory_bytes or None,
            entrypoint_resources=dict(room.resources) or None,
        )


def _check_is_guarded(server: JobServer, *, is_insecure: bool) -> None:
    if server.asks_for_token():
        return
    if not is_insecure:
        raise ValueError(
            f"{server.address}: the cluster asks for no token, so whoever reaches it can run code on it; start it with "
            "RAY_AUTH_MODE=token, or submit all the same with --insecure-cluster"
        )
    logger.warning("INSECURE: the Ray cluster at %s asks for no token", server.address)


def metadata(run: Run) -> dict[str, str]:
    """What Ray's dashboard shows of a run, and by which it is found again."""
    shown = {
        "job_name": run.name,
        RUN: run.name,
        STAGE: run.stage,
        MODEL: run.model.path or "new",
        FOLDER: str(Path(run.output_dir) / run.name),
    }
    return redact(shown)


def status(server: JobServer, job: Job) -> dict[str, Any]:
    """What the run's folder says of it. ValueError where it says nothing yet."""
    return _errand(server, job, ["status"], _SECONDS_TO_LOOK)["status"]


def status_or_less(server: JobServer, job: Job) -> dict[str, Any]:
    """What the run's folder says of it, or, where it can't be asked, what the job server knows."""
    try:
        found = status(server, job)
    except ValueError as error:
        logger.warning("%s", error)
        found = {}
    # The folder may still tell of an earlier run, or of a driver that was killed: whether it goes on, Ray knows best.
    is_told = found.get("state") in GOING_ON if not job.is_over else found.get("state") not in (*GOING_ON, "lost", None)
    return found if is_told else {**found, "run": job.run, "state": job.state}


def scale(server: JobServer, job: Job, num_workers: int) -> str:
    """Have so many rollout workers from now on; what came of it. ValueError: why not."""
    _check_goes_on(job, "scale")
    return _errand(server, job, ["scale", str(num_workers)], SECONDS_TO_SCALE + 30)["text"]


def stop(server: JobServer, job: Job) -> str:
    """End the run after the step under way; what comes of it.

    Through the run's folder, as Ray's own way sends SIGTERM to all processes below the driver, also to those that are
    judging samples. It is taken where the run does not yet read its folder.
    """
    _check_goes_on(job, "stop")
    try:
        return _errand(server, job, ["stop"], SECONDS_TO_STOP + 30)["text"]
    except ValueError as refused:
        logger.info("%s", refused)
        server.end(job.id)
        return "it does not read its folder yet; its processes are told to end"


def ended(server: JobServer, job: Job) -> Job:
    """The job once it is over. ValueError when that takes longer than an update and a save may."""
    seconds = float(job.runtime_env.get("env_vars", {}).get(_PATIENCE, _SECONDS_TO_LOOK))
    return _once_over(server, job.id, seconds, f"{job.run}: still {job.state} after {seconds:g} s")


def _check_goes_on(job: Job, what: str) -> None:
    if job.is_over:
        raise ValueError(f"{job.run}: nothing to {what}: the run is {job.state}")


def _errand(server: JobServer, job: Job, arguments: Sequence[str], seconds: float) -> Mapping[str, Any]:
    """The reply of cluster/errand.py to `arguments`. ValueError when it refuses, or none comes."""
    if job.node is None:
        raise ValueError(f"{job.run}: {job.state}: its driver is not there yet")
    job_id = server.submit(
        f"exec {shlex.join(['python', '-P', '-m', 'cluster.errand', job.folder, *arguments])}",
        submission_id=f"errand-{job.run}-{uuid.uuid4().hex[:8]}",
        runtime_env={name: value for name, value in job.runtime_env.items() if name in ("working_dir", "env_vars")},
        entrypoint_label_selector={_NODE_LABEL: job.node},
    )
    try:
        seconds += _SECONDS_TO_START
        late = f"{job.run}: no answer from the node of its driver within {seconds:g} s; is it still there?"
        over = _once_over(server, job_id, seconds, late)
        lines = server.log(job_id).splitlines()
    finally:
        with contextlib.suppress(ValueError):
            server.end(job_id)
            server.forget(job_id)
    reply = _reply(lines)
    if reply is None:
        raise ValueError(f"{job.run}: its node did not answer: {(lines or [over.message or over.state])[-1]}")
    if "refused" in reply:
        raise ValueError(reply["refused"])
    return reply


def _once_over(server: JobServer, job_id: str, seconds: float, late: str) -> Job:
    deadline = time.monotonic() + seconds
    while not (job := server.look(job_id)).is_over:
        if time.monotonic() > deadline:
            raise ValueError(late)
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    return job


def _reply(lines: Sequence[str]) -> Mapping[str, Any] | None:
    for line in reversed(lines):
        with contextlib.suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict):
                return found
    return None


async def follow(server: JobServer, job_id: str, show: Callable[[str], None], num_shown: int = 0) -> Job:
    """Show what a job prints, to its end, each character once however often the line is cut; the job then.

    `num_shown`: characters that were shown already.
    """
    num_cuts = 0
    while num_cuts < _RECONNECTS:
        num_seen = 0  # a new line begins with what was printed first
        pieces = server.followed(job_id)
        with contextlib.suppress(ConnectionError):
            while text := await _next(server, job_id, pieces):
                num_seen += len(text)
                if num_seen > num_shown:
                    show(text[-(num_seen - num_shown) :])
                    num_shown, num_cuts = num_seen, 0
        if (job := server.look(job_id)).is_over:
            show(server.log(job_id)[num_shown:])
            return job
        num_cuts += 1
        await asyncio.sleep(num_cuts)
    raise ValueError(f"{server.address}: the line was cut {_RECONNECTS} times; the run may go on")


async def _next(server: JobServer, job_id: str, pieces: AsyncIterator[str]) -> str | None:
    """The next piece, None after the last. Silence is looked into, and waited out while the job goes on."""
    piece = asyncio.ensure_future(anext(pieces, None))
    try:
        while True:
            silence = asyncio.wait([piece], timeout=_SECONDS_OF_SILENCE)
            await waited(silence, what=f"the log of {job_id}", owner="job server", seconds=math.inf)
            if piece.done():
                return piece.result()
            if server.look(job_id).is_over:
                return None
    finally:
        piece.cancel()
