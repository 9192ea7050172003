"""The processes that run rewards, behind one call: samples in, composed scores out."""

import asyncio
import contextlib
import logging
import queue
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.schema.rewards import RewardPoolConfig, RewardSpec, check_rewards
from rewards.builtin import BUILTINS, Builtin
from rewards.cache import VerdictCache
from rewards.composition import compose
from rewards.contract import UNFIT, RewardError, RewardInput, Score, Scorer
from rewards.lane import Job, Lane
from rewards.loading import find
from rewards.processes import Keeper, KeeperLost, Worker
from rewards.remote import RemoteConfig, RemoteReward

logger = logging.getLogger(__name__)

_ITEMS_PER_JOB = 64
_KEEPERS_TO_TRY = 3
_EXAMPLES = (
    RewardInput(
        prompt="What is 1 + 1?", response="It is \\boxed{2}.", answer="2", num_response_tokens=8, id="example 1"
    ),
    RewardInput(prompt="What is 2 * 3?", response="I do not know.", answer="6", num_response_tokens=5, id="example 2"),
)


class RewardPool:
    """Scores samples by all rewards of a run. `score` may be awaited on any event loop, from any thread.

    Limits are per call of a reward, and waiting for a free process counts against none of them.
    """

    def __init__(
        self,
        specs: Sequence[RewardSpec],
        limits: RewardPoolConfig,
        folder: Path | None = None,
        is_caching: bool = True,
        scorers: Mapping[str, Scorer] | None = None,
    ) -> None:
        """`folder`: where relative paths of users' files start; the current one by default.

        `scorers`: who answers for each reward model, by the reward's label; the pool asks, and does not own them.
        """
        self._specs = check_rewards(specs)
        self._limits = limits
        self._folder = (folder or Path.cwd()).resolve()
        self._rows = [_row(spec, self._folder) for spec in self._specs]
        self._caches = [VerdictCache(row.depends_on if row and is_caching else ()) for row in self._rows]
        found = enumerate(_scorer(spec, scorers or {}) for spec in self._specs)
        self._scorers = {number: scorer for number, scorer in found if scorer is not None}
        self._is_batch: list[bool] = []
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._lanes: list[Lane] = []
        self._keeper: Keeper | None = None
        self._keeper_lock = threading.Lock()
        self._is_closed = False

    def start(self, rows: Sequence[RewardInput] = ()) -> None:
        """Load every reward, call each on two samples, start the processes; RewardError when one is unfit.

        `rows`: samples of the run's data, of which each reward is given the first two meant for it. Without them
        two made-up samples are used, and since those lack the data set's columns an exception is only logged.
        """
        try:
            for number, scorer in self._scorers.items():
                scorer.check(self._trial_rows(number, rows))
            first = self._spawn()
            self._is_batch = first.is_batch
            first.end()
            self._lanes = [Lane(self._jobs, self._spawn, number) for number in range(self._limits.num_processes)]
            for lane in self._lanes:
                lane.start()
            self._dry_run(rows)
        except BaseException:
            self.close()
            raise

    async def score(self, items: Sequence[RewardInput]) -> list[Score]:
        """One score for each sample, in order: the composed reward as value, each reward by name in `parts`."""
        verdicts: list[dict[str, Score]] = [{} for _ in items]
        first = [number for number, spec in enumerate(self._specs) if spec.instead_of is None]
        await asyncio.gather(*(self._ask(number, items, verdicts) for number in first))
        for number, spec in enumerate(self._specs):
            if spec.instead_of is not None:
                await self._ask(number, items, verdicts)
        return [compose(self._specs, each) for each in verdicts]

    def score_blocking(self, items: Sequence[RewardInput]) -> list[Score]:
        """`score` for callers without an event loop."""
        return asyncio.run(self.score(items))

    @property
    def num_waiting(self) -> int:
        """Jobs that wait for a free process."""
        return self._jobs.qsize()

    def __str__(self) -> str:
        return f"{self.num_waiting} jobs in the queue of {len(self._lanes)} processes"

    def close(self) -> None:
        """End every process; returns when they are gone. Samples that still wait get a RuntimeError."""
        with self._keeper_lock:
            self._is_closed = True
            if self._keeper:
                self._keeper.close()  # before the lanes: one may be waiting for a worker that hangs
        for _ in self._lanes:
            self._jobs.put(None)
        for lane in self._lanes:
            lane.join(timeout=10)
        self._lanes = []

    async def _ask(self, number: int, items: Sequence[RewardInput], verdicts: list[dict[str, Score]]) -> None:
        """Add reward `number`'s verdict to those of every sample that it is meant for."""
        spec = self._specs[number]
        rows = [row for row, item in enumerate(items) if _is_meant(spec, item, verdicts[row])]
        cache = self._caches[number]
        unknown: dict[Any, list[int]] = {}
        for row in rows:
            if (score := cache.recall(items[row])) is None:
                unknown.setdefault(cache.key(items[row]) or row, []).append(row)
            else:
                verdicts[row][spec.label] = score
        scores = await self._run(number, [items[alike[0]] for alike in unknown.values()])
        for alike, score in zip(unknown.values(), scores, strict=True):
            cache.learn(items[alike[0]], score)
            for row in alike:
                verdicts[row][spec.label] = score

    async def _run(self, number: int, items: Sequence[RewardInput]) -> list[Score]:
        """Hand `items` to the lanes: a batch reward as they are, others in pieces that all lanes can share."""
        if not self._lanes:
            raise RuntimeError("RewardPool.start() has not been called, or close() has")
        if number in self._scorers:
            return list(await self._scorers[number].score(items)) if items else []
        is_batch = self._is_batch[number]
        size = len(items) if is_batch else min(_ITEMS_PER_JOB, -(-len(items) // len(self._lanes)))
        jobs = [self._job(number, items[at : at + size]) for at in range(0, len(items), max(size, 1))]
        for job in jobs:
            self._jobs.put(job)
        answers = await asyncio.gather(*(asyncio.wrap_future(job.future) for job in jobs))
        return [score for answer in answers for score in answer]

    def _job(self, number: int, items: Sequence[RewardInput]) -> Job:
        spec, row = self._specs[number], self._rows[number]
        own = row.timeout_seconds if row else None
        return Job(
            reward=number,
            name=spec.label,
            is_batch=self._is_batch[number],
            items=items,
            timeout_seconds=spec.timeout_seconds or own or self._limits.timeout_seconds,
        )

    def _new_keeper(self) -> Keeper:
        return Keeper(sorted({row.target.partition(":")[0] for row in self._rows if row and not row.is_remote}))

    def _spawn(self) -> Worker:
        """A new worker; where the keeper has died, from a new keeper."""
        for _ in range(_KEEPERS_TO_TRY):
            with contextlib.suppress(KeeperLost):
                return self._living_keeper().spawn(self._setup())
        raise RuntimeError(f"{_KEEPERS_TO_TRY} keepers of reward workers died in a row; is the machine out of memory?")

    def _living_keeper(self) -> Keeper:
        with self._keeper_lock:
            if self._is_closed:
                raise RuntimeError("the reward pool is closed")
            if self._keeper is not None and not self._keeper.is_alive:
                logger.warning("the process that forks reward workers is gone; starting another")
                self._keeper.close()
                self._keeper = None
            self._keeper = self._keeper or self._new_keeper()
            return self._keeper

    def _setup(self) -> dict[str, Any]:
        return {
            "folder": str(self._folder),
            "memory_bytes": int(self._limits.memory_gib * 2**30),
            "rewards": [
                None if number in self._scorers else {"use": spec.use, "args": spec.args}
                for number, spec in enumerate(self._specs)
            ],
        }

    def _trial_rows(self, number: int, rows: Sequence[RewardInput]) -> list[RewardInput]:
        task = self._specs[number].task
        return [row for row in rows or _EXAMPLES if not rows or task in (None, row.columns.get("task"))][:2]

    def _dry_run(self, rows: Sequence[RewardInput]) -> None:
        for number, spec in enumerate(self._specs):
            if number in self._scorers:
                continue
            job = self._job(number, items := self._trial_rows(number, rows))
            self._jobs.put(job)
            for item, score in zip(items, job.future.result(), strict=True):
                if not score.status.is_failure:
                    continue
                message = f"rewards: {spec.label}: a trial call on {item.id or 'a row'} failed: {score.detail}"
                if rows or score.detail.startswith(UNFIT):
                    raise RewardError(message)
                logger.warning("%s (the sample is made up, with no columns)", message)


def _row(spec: RewardSpec, folder: Path) -> Builtin | None:
    """The built-in's row; None for a user's file and for a model. RewardError when it is none of the three."""
    return None if spec.model_path is not None or find(spec.use, folder) else BUILTINS[spec.use]


def _scorer(spec: RewardSpec, scorers: Mapping[str, Scorer]) -> Scorer | None:
    """Who answers for this reward; None: a process of the pool."""
    if spec.model_path is None:
        return _remote(spec) if spec.use in BUILTINS and BUILTINS[spec.use].is_remote else None
    if spec.label not in scorers:
        raise RewardError(
            f"rewards: use: {spec.use!r}: reward models are not loaded here; serve it with "
            f"`wutong reward serve {spec.use}`, and use: http"
        )
    return scorers[spec.label]


def _remote(spec: RewardSpec) -> RemoteReward:
    try:
        return RemoteReward(RemoteConfig(**spec.args))  # type: ignore[arg-type]
    except TypeError as error:
        names = ", ".join(RemoteConfig.__dataclass_fields__)
        raise RewardError(f"rewards: http: {error}; the args are {names}") from error


def _is_meant(spec: RewardSpec, item: RewardInput, verdicts: dict[str, Score]) -> bool:
    if spec.task is not None and item.columns.get("task") != spec.task:
        return False
    if spec.instead_of is None:
        return True
    return (
        spec.instead_of in verdicts
        and verdicts[spec.instead_of].value is None
        and not verdicts[spec.instead_of].status.is_failure
    )
