"""The job server of a Ray cluster, spoken to over HTTP from anywhere; every failure is one line.

What it wants is an address and, where the cluster has one, its token: from RAY_AUTH_TOKEN, from the file that
RAY_AUTH_TOKEN_PATH names or from ~/.ray/auth_token. The token is in no command line and in nothing that is sent but
the header of each request.
"""

import contextlib
import importlib
import logging
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import ray
import requests
from aiohttp import ClientError
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from cluster.exit_codes import STOPPED_RESUMABLE

logger = logging.getLogger(__name__)

_raylet: Any = importlib.import_module("ray._raylet")  # compiled: type checkers see nothing in it

RUN, STAGE, MODEL, FOLDER = "wutong.run", "wutong.stage", "wutong.model", "wutong.folder"  # of a job's metadata
_SECONDS_TO_ANSWER: Final = 60.0
_SECONDS_TO_CONNECT: Final = 10.0
_TALKATIVE: Final = ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging")
_STATES: Final = {"PENDING": "starting", "RUNNING": "running", "SUCCEEDED": "finished", "STOPPED": "stopped"}
_ENDED: Final = ("finished", "stopped", "failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A run as the job server knows it. `node`: Ray's id of the node that its driver is on, once it is there."""

    id: str
    run: str
    stage: str
    model: str
    folder: str
    state: str
    message: str
    began: datetime
    exit_code: int | None
    node: str | None
    runtime_env: Mapping[str, Any]

    @property
    def is_over(self) -> bool:
        """Whether its driver has ended, however."""
        return self.state in _ENDED


class _Client(JobSubmissionClient):
    def _do_request(self, method: str, endpoint: str, **options: Any) -> requests.Response:
        options.setdefault("timeout", (_SECONDS_TO_CONNECT, _SECONDS_TO_ANSWER))  # Ray's own client waits for ever
        return super()._do_request(method, endpoint, **options)


class JobServer:
    """Connected from the start: ValueError when nobody answers at `address`, or not to us."""

    def __init__(self, address: str) -> None:
        if not address.startswith(("http://", "https://")):
            raise ValueError(
                f"--address {address}: want the address of the cluster's dashboard, such as http://HEAD:8265"
            )
        self.address = address.rstrip("/")
        for talkative in _TALKATIVE:
            logging.getLogger(f"ray.{talkative}").setLevel(logging.WARNING)
        with self._told(), _without("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):  # they would win over ours
            self._client = _Client(self.address, headers=_bearer())
            theirs = self._client._do_request("GET", "/api/version").json()["ray_version"]
        if theirs.split(".")[:2] != ray.__version__.split(".")[:2]:
            raise ValueError(
                f"{self.address}: the cluster has Ray {theirs}, and here is {ray.__version__}: install the same in both"
            )

    def asks_for_token(self) -> bool:
        """Whether it refuses whoever has none."""
        with self._told():
            timeout = (_SECONDS_TO_CONNECT, _SECONDS_TO_ANSWER)
            return requests.get(f"{self.address}/api/jobs/", timeout=timeout).status_code in (401, 403)

    def jobs(self) -> list[Job]:
        """The runs that were submitted and are remembered, newest first."""
        with self._told():
            found = [_job(each) for each in self._client.list_jobs() if RUN in (each.metadata or {})]
        return sorted(found, key=lambda job: job.began, reverse=True)

    def find(self, name: str) -> Job:
        """The newest job of the run of this name, or the one with this id; ValueError when there is none."""
        found = self.jobs()
        for job in found:
            if name in (job.run, job.id):
                return job
        names = ", ".join(sorted({job.run for job in found})) or "none"
        raise ValueError(f"{self.address}: no run {name!r} was submitted there; it knows of: {names}")

    def look(self, job_id: str) -> Job:
        """A job as it stands now; also of one that is no run."""
        with self._told():
            return _job(self._client.get_job_info(job_id))

    def submit(self, command: str, **options: Any) -> str:
        """Have a command run; the job's id. `options`: see JobSubmissionClient.submit_job."""
        with self._told():
            return self._client.submit_job(entrypoint=command, **options)

    def end(self, job_id: str) -> None:
        """Send SIGTERM to a job's processes, and SIGKILL when they don't end in the time that it was given."""
        with self._told():
            self._client.stop_job(job_id)

    def forget(self, job_id: str) -> None:
        """Take a job that is over off the list."""
        with self._told():
            self._client.delete_job(job_id)

    def log(self, job_id: str) -> str:
        """All that a job has printed."""
        with self._told():
            return self._client.get_job_logs(job_id)

    async def followed(self, job_id: str) -> AsyncIterator[str]:
        """What a job has printed and prints, until it ends. ConnectionError when the line is cut before that."""
        try:
            async for text in self._client.tail_job_logs(job_id):
                yield text
        except (ClientError, RuntimeError, OSError) as error:
            raise ConnectionError(f"{self.address}: {error}") from error

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except AuthenticationError as error:
            is_missing = "Authentication failed" not in str(error)
            what = "wants a token, and none was found" if is_missing else "refuses the token"
            raise ValueError(
                f"{self.address}: the cluster {what}; set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file that holds "
                "it (`ray get-auth-token` prints it on the head)"
            ) from None
        except (ConnectionError, requests.RequestException):
            raise ValueError(
                f"{self.address}: no Ray cluster answers there; is its dashboard at this address, and a port forwarded "
                "to it where it is behind a firewall?"
            ) from None
        except (RuntimeError, KeyError) as error:
            raise ValueError(f"{self.address}: {' '.join(str(error).split())[:500]}") from None


def _job(details: Any) -> Job:
    metadata: Mapping[str, str] = details.metadata or {}
    state = _STATES.get(str(details.status.value), "failed")
    if state == "failed" and details.driver_exit_code == STOPPED_RESUMABLE:
        state = "stopped"
    return Job(
        id=details.submission_id or "",
        run=metadata.get(RUN, ""),
        stage=metadata.get(STAGE, ""),
        model=metadata.get(MODEL, ""),
        folder=metadata.get(FOLDER, ""),
        state=state,
        message=details.message or "",
        began=datetime.fromtimestamp((details.start_time or 0) / 1000, UTC),
        exit_code=details.driver_exit_code,
        node=details.driver_node_id,
        runtime_env=details.runtime_env or {},
    )


def _bearer() -> dict[str, str]:
    """The header that holds the token, where there is one. Ray itself sends it only when RAY_AUTH_MODE says so."""
    loader = _raylet.AuthenticationTokenLoader.instance()
    loader.reset_cache()
    return loader.get_token_for_http_header(ignore_auth_mode=True)


@contextlib.contextmanager
def _without(*names: str) -> Iterator[None]:
    """The environment without these variables inside."""
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
