"""How a run stands between its steps, as samples for Prometheus: phase, queues, workers and their engines."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

from actors.fleet import RolloutFleet
from actors.rollout_handle import WorkerHandle
from metrics import exposition as exposed
from metrics.exposition import Exposed, Sample
from metrics.meter import Meter
from metrics.names import PHASES
from rewards.pool import RewardPool

STARTING: Final = "start"  # the phase before the first
_STATES: Final = ("starting", "loading", "sampling", "idle", "draining")  # of a rollout worker


class Live:
    """The parts of a run that change while a step goes on. What is not there yet is not told."""

    def __init__(self, num_steps: int, fleet: RolloutFleet | None, rewards: RewardPool | None) -> None:
        self._num_steps, self._fleet, self._rewards = num_steps, fleet, rewards
        self._meter: Meter | None = None
        self._num_learners = 0
        self._step, self._stepped_at = 0, time.monotonic()

    def follow(self, meter: Meter) -> None:
        """A learner begins, or a new one goes on, with this stopwatch."""
        self._meter = meter
        self._num_learners += 1
        self._stepped_at = time.monotonic()

    def samples(self, standing: Mapping[str, Any]) -> Iterator[Sample]:
        """All that is known now. `standing`: the loop's account (trainers/loop.py)."""
        now = STARTING if self._meter is None else self._meter.phase_now
        for phase in (STARTING, *PHASES, "other"):
            yield _sample(exposed.PHASE, phase == now, phase=phase)
        yield _sample(exposed.STEPS, self._num_steps)
        yield _sample(exposed.RESTARTS, max(0, self._num_learners - 1), of="learner")
        if (step := standing.get("step")) is not None:
            if step != self._step:
                self._step, self._stepped_at = step, time.monotonic()
            yield _sample(exposed.STEP, step)
            yield _sample(exposed.STEP_AGE, time.monotonic() - self._stepped_at)
        for place in ("in_flight", "finished"):
            if place in standing:
                yield _sample(exposed.GROUPS, standing[place], place=place)
        if self._rewards is not None:
            yield _sample(exposed.VERDICTS, self._rewards.num_waiting)
        if self._fleet is not None:
            yield from _of_fleet(self._fleet)


def _of_fleet(fleet: RolloutFleet) -> Iterator[Sample]:
    yield _sample(exposed.GROUPS, fleet.leases.num_waiting, place="waiting")
    yield _sample(exposed.RESTARTS, fleet.num_restarts, of="rollout")
    counts = Counter(worker.state for worker in fleet.workers.values())
    counts["starting"] = sum(name not in fleet.workers for name in fleet.names)
    for state in _STATES:
        yield _sample(exposed.WORKERS, counts[state], state=state)
    for name, worker in fleet.workers.items():
        yield from _of_worker(name, worker)


def _of_worker(name: str, worker: WorkerHandle) -> Iterator[Sample]:
    progress, engine = worker.pace.progress, worker.engine
    for each, value in (
        (exposed.ENGINE_TOKENS, progress.num_tokens),
        (exposed.ENGINE_BUSY, progress.busy_seconds),
        (exposed.ENGINE_RUNNING, engine.num_running),
        (exposed.ENGINE_WAITING, engine.num_waiting),
        (exposed.ENGINE_KV_CACHE, engine.kv_cache_usage),
        (exposed.ENGINE_PREFIX_QUERIES, engine.num_prefix_queries),
        (exposed.ENGINE_PREFIX_HITS, engine.num_prefix_hits),
    ):
        yield _sample(each, value, worker=name)


def _sample(each: Exposed, value: float, **labels: str) -> Sample:
    return Sample(exposed=each, value=float(value), labels=labels)
