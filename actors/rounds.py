"""Rounds in which a fleet's workers receive offered weights together; one that comes alone gets them from the store."""

import asyncio
import contextlib
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from actors.messages import RolloutSpec
from actors.offers import Offer
from actors.rollout_handle import WorkerHandle
from experience.records import Weights
from metrics.waits import waited

logger = logging.getLogger(__name__)

_SECONDS_TO_GATHER = 0.01  # all that are woken by the same weights come within a turn or two of the event loop


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A worker that waits for these weights. `taken`: done when it holds them."""

    worker: WorkerHandle
    weights: Weights
    taken: asyncio.Future[None]


class Rounds:
    """The channel of a fleet, made anew whenever it has other workers, or the weights come from other ranks."""

    def __init__(self, spec: RolloutSpec, workers: Mapping[str, WorkerHandle]) -> None:
        """`workers`: those of the fleet, as it changes."""
        self._spec = spec
        self._workers = workers
        self._waiting: list[_Asked] = []
        self._sharing: set[object] = set()  # who is in the channel
        self._round: asyncio.Task[None] | None = None

    async def load(self, worker: WorkerHandle, weights: Weights) -> None:
        """Give it these weights. As `WorkerHandle.load`; Outdated where the ranks have gone on from them."""
        if not isinstance(weights.handle, Offer):
            await worker.load(weights)
            return
        asked = _Asked(worker=worker, weights=weights, taken=asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        if self._round is None or self._round.done():
            self._round = asyncio.create_task(self._hold())
        await waited(asked.taken, what=f"a round for {worker.name}", owner="rollout fleet", seconds=math.inf)

    async def close(self) -> None:
        """End the round under way."""
        if self._round is not None:
            self._round.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waited(self._round, what="the end of a round", owner="rollout fleet")

    async def _hold(self) -> None:
        await asyncio.sleep(_SECONDS_TO_GATHER)
        while self._waiting:
            waiting, self._waiting = [each for each in self._waiting if not each.taken.done()], []
            for weights in {id(each.weights): each.weights for each in waiting}.values():
                together = [each for each in waiting if each.weights is weights]
                try:
                    await self._give(weights, together)
                except BaseException as error:
                    _fail(together, error)
                    if isinstance(error, asyncio.CancelledError):
                        raise

    async def _give(self, weights: Weights, together: Sequence[_Asked]) -> None:
        """All of them the same weights: at once if they are the whole fleet, else from the store."""
        offer: Offer = weights.handle
        is_whole = {each.worker.name for each in together} == set(self._workers)
        if is_whole and await self._share_channel(offer, together):
            await self._broadcast(offer, together)
            return
        await _loaded(together, await offer.stored())

    async def _share_channel(self, offer: Offer, together: Sequence[_Asked]) -> bool:
        """Whether these workers and the offer's ranks share a channel."""
        wanted = {offer.holders, *(each.worker for each in together)}  # processes: a name may be another's by now
        if self._sharing == wanted:
            return True
        self._sharing = set()
        devices = self._spec.config.tensor_parallel_size
        spec = await offer.open(
            1 + devices * len(together),
            timeout_seconds=self._spec.config.progress_timeout_seconds,
            use_gpu=self._spec.use_gpu,
        )
        problem, *failures = await asyncio.gather(
            offer.meet(spec),
            *(each.worker.meet(spec, 1 + devices * place) for place, each in enumerate(together)),
            return_exceptions=True,
        )
        for each, failure in zip(together, failures, strict=True):
            if isinstance(failure, BaseException):
                _fail([each], failure)
        if isinstance(problem, BaseException):
            raise problem
        if problem is not None or any(failures):
            logger.warning(
                "no channel to the rollout workers (%s): this version goes by way of the store",
                problem or "a worker is lost",
            )
            return False
        self._sharing = wanted
        return True

    async def _broadcast(self, offer: Offer, together: Sequence[_Asked]) -> None:
        sending = asyncio.create_task(offer.send())
        await asyncio.sleep(0)  # it has asked the ranks by now: nothing that changes their weights comes before
        if sending.done():
            sending.result()  # Outdated: no worker was told to wait for it
        is_whole = await _loaded(together, offer.weights)
        problem = await waited(sending, what="the end of sending", owner="trainer ranks", seconds=math.inf)
        if problem is not None or not is_whole:
            self._sharing = set()
            logger.warning(
                "weights version %d did not reach every worker: %s", offer.weights.version, problem or "one is lost"
            )


async def _loaded(together: Sequence[_Asked], sent: Weights) -> bool:
    """Whether all could load them; each is told what came of it."""
    results = await asyncio.gather(*(each.worker.load(each.weights, sent) for each in together), return_exceptions=True)
    for each, result in zip(together, results, strict=True):
        if isinstance(result, BaseException):
            _fail([each], result)
        elif not each.taken.done():
            each.taken.set_result(None)
    return not any(isinstance(result, BaseException) for result in results)


def _fail(together: Sequence[_Asked], error: BaseException) -> None:
    for each in together:
        if not each.taken.done():
            each.taken.set_exception(error)
