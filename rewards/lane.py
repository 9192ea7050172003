"""A thread that drives one worker: it feeds it samples, watches the clock, and replaces it when it fails."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from rewards import wire
from rewards.contract import RewardInput, Score, Status
from rewards.processes import Worker, WorkerLost

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_OUTPUTS = 10.0  # what rewards print is logged at most this often


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Samples for one reward. `timeout_seconds` bounds one call, and runs only while a worker has it."""

    reward: int
    name: str
    is_batch: bool
    items: Sequence[RewardInput]
    timeout_seconds: float
    future: "Future[list[Score]]" = field(default_factory=Future)


class Lane(threading.Thread):
    """One worker's owner. Takes jobs from the shared queue until it finds None there."""

    def __init__(self, jobs: "queue.SimpleQueue[Job | None]", spawn: Callable[[], Worker], number: int) -> None:
        super().__init__(name=f"rewards-{number}", daemon=True)
        self._jobs = jobs
        self._spawn = spawn
        self._worker: Worker | None = None
        self._next_output = 0.0

    def run(self) -> None:
        """Serve jobs until told to stop; the worker ends with the thread."""
        while (job := self._jobs.get()) is not None:
            if not job.future.set_running_or_notify_cancel():
                continue
            try:
                job.future.set_result(self._score(job))
            except Exception as error:  # noqa: BLE001 - the thread lives on; who waits for the job gets it
                job.future.set_exception(error)
        self._end_worker()

    def _score(self, job: Job) -> list[Score]:
        """One score a sample. A call that fails costs its worker and its sample; the rest goes to a new worker."""
        scores: list[Score] = []
        size = len(job.items)
        while len(scores) < len(job.items):
            batch = job.items[len(scores) : len(scores) + size]
            answered, failure = self._attempt(job, batch)
            scores += answered
            if failure is None:
                continue
            if job.is_batch and len(batch) > 1:
                size = 1  # find the culprit: each sample in a call of its own
                continue
            scores.append(failure)
        return scores

    def _attempt(self, job: Job, items: Sequence[RewardInput]) -> tuple[list[Score], Score | None]:
        """The scores of one conversation with a worker, and the verdict on the sample that broke it, if one did."""
        worker = self._worker = self._worker or self._spawn()
        scores: list[Score] = []
        try:
            worker.send({"reward": job.reward, "items": wire.dump_inputs(items)}, job.timeout_seconds)
            while len(scores) < len(items):
                scores.append(wire.load_score(worker.receive(job.timeout_seconds)))
            self._after(job, worker.receive(job.timeout_seconds))
        except TimeoutError:
            self._end_worker()
            if len(scores) == len(items):
                return scores, None  # all was said, it only hung on its way out
            return scores, Score(
                value=None, status=Status.TIMEOUT, detail=f"{job.name} took longer than {job.timeout_seconds:g} s"
            )
        except (WorkerLost, ValueError) as error:
            ending = self._end_worker() or str(error)
            if len(scores) == len(items):
                return scores, None
            return scores, Score(value=None, status=Status.ERROR, detail=f"{job.name}: its process was {ending}")
        return scores, None

    def _after(self, job: Job, farewell: dict[str, Any]) -> None:
        if farewell["output"] and time.monotonic() >= self._next_output:
            self._next_output = time.monotonic() + _SECONDS_BETWEEN_OUTPUTS
            logger.info("%s printed: %r", job.name, farewell["output"][-1000:])
        if farewell["spent"]:
            self._end_worker()

    def _end_worker(self) -> str:
        worker, self._worker = self._worker, None
        return worker.end() if worker else ""
