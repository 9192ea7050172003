"""A group of ranks as Ray actors, whatever model they hold: one process each, and what the driver does with all.

The group lives and dies as a whole: collectives need every rank, so one that fails ends all.
"""

import asyncio
import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import ray

from actors import telemetry
from actors.names import actor_name
from actors.placement import GPU_SHARE, SECONDS_TO_PLACE, Room, reserve
from actors.rank import Rank, StartFacts
from actors.rank_failures import describe_failure, errors_by_rank, is_hang, is_loss
from experience.records import Batch, BlockHandle
from metrics.timeline import actor_span
from metrics.waits import Overdue, reported, waited
from trainers.checkpoint import scratch_beside
from trainers.learner import LearnerSpec

logger = logging.getLogger(__name__)

SECONDS_FOR_OTHER_RANKS = 2.0  # after a first failure: the others' tell which rank was its cause


class TrainerGroupError(RuntimeError):
    """The learner is gone. The message names the rank that failed first, and why."""


class RanksLost(TrainerGroupError):
    """Processes of the learner died or hang. What they did was no mistake: new ones may do it again."""


class RankGroup:
    """All ranks that hold a model together."""

    rank_class: type[Rank] = Rank
    title = "trainer"
    changing = frozenset(("update", "learn", "learn_from", "load"))  # calls after which the weights are others

    def __init__(
        self, spec: LearnerSpec, ranks: Sequence[Any], facts: Sequence[StartFacts], room: Room | None = None
    ) -> None:
        self._spec = spec
        self._ranks = ranks
        self._room = room
        self.start_facts = facts
        self.num_changes = 0  # of the weights; before a call that changes them is made, it counts
        self._failure: str | None = None

    @classmethod
    async def start(cls, spec: LearnerSpec, room: Room | None = None) -> Self:
        """Ranks with their models loaded.

        `room`: a bundle for each, whose GPU it shares with another process, and which stays the caller's.
        """
        size = spec.trainer.num_ranks
        own = None
        if room is None:
            who, bundles = f"{cls.title} of {size} ranks", [_resources(spec)] * size
            room = own = await reserve(who, bundles, spec.trainer.placement, seconds=SECONDS_TO_PLACE)
        options = _actor_options(spec, _resources(spec, None if own is not None else GPU_SHARE))
        ranks = [
            ray.remote(cls.rank_class)
            .options(**{**options, **room.options(rank)}, name=actor_name(f"{cls.title}-{rank}"))
            .remote(spec, rank, cls.title)
            for rank in range(size)
        ]
        group = cls(spec, ranks, [], own)
        addresses = await group._call("address", [()] * size)
        is_single_host = len({host for host, _ in addresses}) == 1
        group.start_facts = await group._call("start", [(addresses[0], is_single_host)] * size)
        return group

    def __len__(self) -> int:
        return len(self._ranks)

    async def offload(self) -> None:
        """Leave the devices' memory to others but for the weights, which can be published all the same."""
        await self._call("offload", [()] * len(self))

    async def reload(self) -> None:
        """Take up again what was offloaded; before anything but publishing."""
        await self._call("reload", [()] * len(self))

    async def save_part(self, draft: Path) -> None:
        """Write what these ranks hold into a checkpoint's draft. OSError when the disk has no room for it."""
        problems = await self._call("save", [(absolute(draft),)] * len(self))
        for problem in filter(None, problems):
            raise OSError(problem)

    async def load_part(self, folder: Path, num_writers: int) -> None:
        """Go on from what `save_part` of so many ranks wrote; the checkpoint must have been verified."""
        if num_writers == len(self):
            await self._call("load", [(absolute(folder),)] * len(self))
            return
        logger.warning(
            "%s: written by %d ranks of the %s; converted for %d (equal but for rounding, not bit for bit)",
            folder, num_writers, self.title, len(self),
        )  # fmt: skip
        with scratch_beside(folder, self.title) as universal:
            places = (absolute(folder), absolute(universal))
            for problem in filter(None, await self._call("convert", [places] * len(self))):
                raise OSError(problem)
            await self._call("load", [places] * len(self))

    def close(self, reason: str = "the learner was closed") -> None:
        """End all ranks. The first `reason` stays: what fails because ranks were ended is no cause."""
        self._failure = self._failure or reason
        for rank in self._ranks:
            ray.kill(rank)
        if self._room is not None:
            self._room.free()

    def _parts(self, batch: Batch) -> list[tuple[Batch, dict[int, BlockHandle]]]:
        """The batch as each rank sees it, with the blocks that its micro-batches name.

        Neighbours that share the tokens of each micro-batch see the same.
        """
        blocks = shared(batch.blocks)
        size = self._spec.trainer.sequence_parallel_size
        parts = [batch.of_rank(rank // size) for rank in range(len(self))]
        return [(part, _named_blocks(part, blocks)) for part in parts]

    async def _call(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The method's results, one a rank. The first failure ends the group with TrainerGroupError."""
        if self._failure:
            raise TrainerGroupError(self._failure)
        self.num_changes += method in self.changing
        begun = time.monotonic()
        calls = [
            asyncio.wrap_future(getattr(rank, method).remote(*own).future())
            for rank, own in zip(self._ranks, arguments, strict=True)
        ]
        for number, call in enumerate(calls):
            call.add_done_callback(lambda _, number=number: actor_span(f"{self.title}-{number}", method, begun))
        try:
            _, pending = await waited(
                asyncio.wait(calls, return_when=asyncio.FIRST_EXCEPTION), what=method, owner=f"{self.title} ranks"
            )
        except Overdue as overdue:
            raise self._ended(RanksLost, calls, str(overdue)) from None
        failed = any(call.done() and call.exception() for call in calls)
        if not failed:
            return [call.result() for call in calls]
        if pending:
            what = f"the end of {method}, which failed on another rank"
            others = asyncio.wait(pending, timeout=SECONDS_FOR_OTHER_RANKS)
            await waited(others, what=what, owner=f"{self.title} ranks", seconds=math.inf)
        reason = describe_failure(self.title, method, calls, self._spec.trainer.tokens_per_micro_batch)
        if is_hang(calls):
            told = (f"rank {rank}: {error}" for rank, error in errors_by_rank(calls).items())
            reason += await reported(reason, "\n".join(told))
        raise self._ended(RanksLost if is_loss(calls) else TrainerGroupError, calls, reason)

    def _ended(
        self, kind: type[TrainerGroupError], calls: Sequence[asyncio.Future[Any]], reason: str
    ) -> TrainerGroupError:
        """End all ranks; the error to raise."""
        for call in calls:
            call.cancel()
        self.close(f"{reason}; all {len(calls)} ranks were ended")
        return kind(self._failure)


def _actor_options(spec: LearnerSpec, resources: Mapping[str, float]) -> dict[str, Any]:
    """Ray options of one rank. The environment must be there before torch is imported."""
    threads = spec.trainer.threads_per_rank
    environment = {
        **telemetry.OFF,
        "OMP_NUM_THREADS": str(threads),
        # Spinning threads of one process would starve the others that share its cores.
        "GOMP_SPINCOUNT": "0",
        "OMP_WAIT_POLICY": "passive",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONDONTWRITEBYTECODE": "",  # else every start compiles torch and transformers anew
    }
    if not spec.use_gpu:
        environment["DS_ACCELERATOR"] = "cpu"
    return {
        "num_cpus": resources["CPU"],
        "num_gpus": resources["GPU"],
        "max_restarts": 0,
        "runtime_env": {"env_vars": environment},
    }


def _resources(spec: LearnerSpec, of_a_gpu: float | None = None) -> dict[str, float]:
    """What one rank takes of a node, by Ray's names; `of_a_gpu`: of one that it shares by turns."""
    share = spec.trainer.placement.gpu_share if of_a_gpu is None else of_a_gpu
    return {"CPU": spec.trainer.threads_per_rank, "GPU": share if spec.use_gpu else 0}


def absolute(folder: Path) -> str:
    """Ranks may run in another folder than the driver."""
    return str(folder.resolve())


def shared(blocks: Sequence[BlockHandle]) -> list[BlockHandle]:
    """Every block as a reference: what several ranks read travels once."""
    return [block if isinstance(block, ray.ObjectRef) else ray.put(block) for block in blocks]


def _named_blocks(part: Batch, blocks: Sequence[BlockHandle]) -> dict[int, BlockHandle]:
    """The blocks that a rank's micro-batches name, by number."""
    mini_batches = (*part.mini_batches, *part.mixed)
    numbers = {item.block for batch in mini_batches for micro in batch.ranks[0] for item in micro}
    return {number: blocks[number] for number in sorted(numbers)}
