"""The scorer fleet: all replicas of one reward model as one scorer, on the driver's event loop.

score ──► queue ──► whichever replica is idle ──► scores, in the order asked
            ▲                  │
            └── what it held ◄─┘ when it is lost
"""

import asyncio
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

from ray.exceptions import RayTaskError

from actors.placement import reserved
from actors.scorer import ScorerRank, ScorerSpec
from actors.scorer_replica import ReplicaLost, ScorerReplica, resources
from metrics.waits import waited
from rewards.contract import RewardError, RewardInput, RewardOutage, Score, Status
from trainers.model_files import check_reward_model

logger = logging.getLogger(__name__)

_ITEMS_PER_PIECE = 64
_MOST_LOSSES = 2  # a piece that took so many replicas with it is not tried on another


@dataclass(slots=True, kw_only=True, eq=False)
class _Piece:
    """Samples that somebody waits for; one replica at a time has them."""

    items: Sequence[RewardInput]
    num_losses: int = 0
    future: asyncio.Future[Sequence[Score]] = field(default_factory=asyncio.Future)

    def resolve(self, scores: Sequence[Score]) -> None:
        """Hand the scores to who waits, unless it went away."""
        if not self.future.done():
            self.future.set_result(scores)

    def fail(self, reason: str) -> None:
        """Leave every sample of it unscored."""
        self.resolve([Score(value=None, status=Status.ERROR, detail=reason)] * len(self.items))


class ScorerFleet:
    """Fulfils `rewards.contract.Scorer`. All methods but `check` belong to one event loop."""

    rank_type: type[ScorerRank] = ScorerRank

    def __init__(self, spec: ScorerSpec) -> None:
        path = Path(spec.model_path).expanduser()
        # Actors work in another folder.
        self._spec = replace(spec, model_path=str(path.resolve())) if path.exists() else spec
        self.replicas: dict[str, ScorerReplica] = {}  # by name
        self._queue: asyncio.Queue[_Piece] = asyncio.Queue()
        self._waiting: set[_Piece] = set()
        self._lives: dict[str, asyncio.Task[None]] = {}
        self._num_names = 0
        self._use_gpu = False
        self._failure: Exception | None = None

    def __str__(self) -> str:
        counts = f"{self._queue.qsize()} pieces in the queue, {len(self._waiting)} not scored"
        return f"{counts}, {len(self.replicas)} replicas"

    def check(self, items: Sequence[RewardInput]) -> None:
        """RewardError when the files are no reward model; this needs no replica."""
        try:
            check_reward_model(self._spec.model_path)
        except ValueError as error:
            raise RewardError(f"rewards: {self._spec.name}: {error}") from error

    async def start(self, *, use_gpu: bool = False) -> None:
        """Start all replicas at once, each rank on a GPU of its own if `use_gpu`; returns when each holds the model."""
        self._use_gpu = use_gpu
        await asyncio.gather(*(self.add_replica() for _ in range(self._spec.config.num_replicas)))

    async def add_replica(self) -> None:
        """Start one more replica; returns when it serves. RewardError for a model that it can't use."""
        name = f"{self._spec.name}-{self._num_names}"
        self._num_names += 1
        started = asyncio.get_running_loop().create_future()
        self._lives[name] = life = asyncio.create_task(self._live(name, started))
        life.add_done_callback(lambda life: self._bury(name, life))
        either = asyncio.wait([started, life], return_when=asyncio.FIRST_COMPLETED)
        await waited(either, what="its start", owner=name, seconds=math.inf)  # its own start has the deadline
        if life.done():
            life.result()

    async def score(self, items: Sequence[RewardInput]) -> list[Score]:
        """One score for each item, in order; RewardOutage when no replica is left."""
        if self._failure is not None:
            raise self._failure
        rows = sorted(range(len(items)), key=lambda row: len(items[row].prompt) + len(items[row].response))
        size = max(1, min(_ITEMS_PER_PIECE, -(-len(items) // self._spec.config.num_replicas)))
        pieces = [_Piece(items=[_bare(items[row]) for row in rows[at : at + size]]) for at in range(0, len(rows), size)]
        self._waiting.update(pieces)
        try:
            for piece in pieces:
                self._queue.put_nowait(piece)
            together = asyncio.gather(*(piece.future for piece in pieces))
            answers = await waited(together, what="scores", owner=self._spec.name, seconds=math.inf)  # replicas have it
        finally:
            self._waiting.difference_update(pieces)
        found = dict(zip(rows, (score for answer in answers for score in answer), strict=True))
        return [found[row] for row in range(len(items))]

    async def close(self) -> None:
        """End all replicas at once. Whoever still waits for scores gets RewardOutage."""
        lives = list(self._lives.values())
        for life in lives:
            life.cancel()
        await waited(asyncio.gather(*lives, return_exceptions=True), what="the end", owner="replicas")
        self._fail(RewardOutage(f"the replicas of {self._spec.name} were ended"))

    async def _live(self, name: str, started: asyncio.Future[None]) -> None:
        """A replica's place in the fleet: what fills it is replaced when it is lost."""
        for restarts_left in reversed(range(self._spec.config.max_restarts + 1)):
            try:
                await self._fill(name, started)
            except ReplicaLost as loss:
                if restarts_left == 0:
                    raise RewardOutage(f"{name} was lost too often; the last time: {loss}") from None
                logger.warning("%s: %s; another takes its place", name, loss)

    async def _fill(self, name: str, started: asyncio.Future[None]) -> NoReturn:
        """One replica in a place, until it is lost (ReplicaLost). PlacementRefused where there is no room for it."""
        config = self._spec.config
        bundles = [resources(config, use_gpu=self._use_gpu)] * config.ranks_per_replica
        async with reserved(f"{name} ({len(bundles)} ranks)", bundles, config.placement) as room:
            replica = ScorerReplica(self._spec, self.rank_type, room, use_gpu=self._use_gpu)
            self.replicas[name] = replica
            try:
                await replica.start()
                if not started.done():
                    started.set_result(None)
                await self._serve(replica)
            finally:
                self.replicas.pop(name).end()

    async def _serve(self, replica: ScorerReplica) -> NoReturn:
        """Take pieces for ever. A piece that raises is at fault itself; one that ends the replica may not be."""
        while True:
            piece = await waited(self._queue.get(), what="samples", owner="rewards", seconds=math.inf)
            if piece.future.done():
                continue
            try:
                piece.resolve(await replica.score(piece.items))
            except RayTaskError as error:
                piece.fail(f"{type(error.cause).__name__}: {error.cause}")
            except ReplicaLost as loss:
                self._give_back(piece, str(loss))
                raise

    def _give_back(self, piece: _Piece, reason: str) -> None:
        piece.num_losses += 1
        if piece.num_losses < _MOST_LOSSES:
            self._queue.put_nowait(piece)
        else:
            piece.fail(f"{piece.num_losses} replicas were lost on it; the last: {reason}")

    def _bury(self, name: str, life: asyncio.Task[None]) -> None:
        """A place is given up. The last one ends the fleet."""
        del self._lives[name]
        if life.cancelled() or (error := life.exception()) is None:
            return
        logger.error("%s is given up: %s", name, error)
        if not self._lives:
            self._fail(RewardOutage(f"no replica is left; the last: {error}"))

    def _fail(self, failure: Exception) -> None:
        self._failure = self._failure or failure
        for piece in self._waiting:
            if not piece.future.done():
                piece.future.set_exception(failure)


def _bare(item: RewardInput) -> RewardInput:
    """What a model reads of a sample; the data set's columns may be large."""
    return replace(item, answer=None, columns={})
