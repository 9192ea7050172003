"""Scoring a step's samples while others of the step are still being sampled.

     finished groups, in order ──► a chunk that fills a pass of every rank ──► learner.score ──► ... ──► learner.update

What reference, critic and policy say of a sequence is asked of the weights that its step begins with.
The learner has these from one update to the next, and nothing else to do meanwhile.

Which sequences share a pass may change the last digit of what is said. Chunks are therefore cut from the groups' order
alone: on-policy, a step gives the same numbers whichever group finished first.
"""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from experience.blocks import BlockNumbers
from experience.buffer import Buffer
from experience.packing import plan_mini_batches
from experience.records import Batch, Group, Item
from metrics.meter import Meter
from metrics.waits import waited
from trainers.credit import BatchShape
from trainers.roles import Learner


class Ahead:
    """Has the learner score groups, a chunk at a time, whenever it is not learning."""

    def __init__(self, learner: Learner, shape: BatchShape, meter: Meter) -> None:
        self._learner, self._shape, self._meter = learner, shape, meter
        self._blocks = BlockNumbers()
        self._scored: set[int] = set()  # ordinals of the step under way
        self._share = 0.0  # of the newest step's groups that were scored ahead
        self._is_free = asyncio.Lock()  # the learner does one thing at a time

    async def run(self, buffer: Buffer, before: Callable[[], float]) -> None:
        """Consumes finished groups; produces scores at the learner; waits for the buffer; unblocked by each group.

        `before`: the lowest ordinal that is yet to be begun and belongs before some that are begun.
        """
        while self._learner.scores_first:
            async with self._turn():
                chunk = self._chunk(buffer.ahead(before()))
                await self._score(chunk)
            if not chunk:
                change = buffer.change()
                await waited(change, what="a finished group", owner="buffer", seconds=math.inf)  # others do

    @contextlib.asynccontextmanager
    async def all_scored(self, groups: Sequence[Group]) -> AsyncIterator[BlockNumbers]:
        """The step of these groups, whose scores are there; inside it, no more are asked for.

        Gives the numbers that the groups' blocks must have in its batch.
        """
        async with self._turn():
            if self._learner.scores_first:
                self._share = sum(group.prompt.ordinal in self._scored for group in groups) / len(groups)
                with self._meter.phase("logprobs"):
                    await self._score_rest(groups)
            try:
                yield self._blocks
            finally:
                self._blocks, self._scored = BlockNumbers(), set()

    def metrics(self) -> Mapping[str, float]:
        """What became of the newest step, by name; nothing where there is nothing to score."""
        return {"throughput/scored_ahead": self._share} if self._learner.scores_first else {}

    async def _score_rest(self, groups: Sequence[Group]) -> None:
        while chunk := self._chunk(groups):
            await self._score(chunk)
        await self._score([group for group in groups if group.prompt.ordinal not in self._scored])

    def _chunk(self, groups: Sequence[Group]) -> list[Group]:
        """As many of the next groups as fill a pass of every rank; none where there are too few to fill it."""
        room = self._shape.num_ranks * self._shape.tokens_per_micro_batch
        chunk: list[Group] = []
        for group in groups:
            if group.prompt.ordinal in self._scored:
                continue
            room -= sum(item.num_tokens for item in self._items(group))
            if room < 0 and chunk:
                return chunk
            chunk.append(group)
        return chunk if room < 0 else []

    async def _score(self, groups: Sequence[Group]) -> None:
        self._scored.update(group.prompt.ordinal for group in groups)
        plan = plan_mini_batches(
            [self._items(group) for group in groups],
            num_mini_batches=1,
            num_ranks=self._shape.num_ranks,
            tokens_per_micro_batch=self._shape.tokens_per_micro_batch,
        )
        if plan:
            await self._learner.score(Batch(blocks=self._blocks.handles, mini_batches=plan))

    def _items(self, group: Group) -> list[Item]:
        """The sequences that may be learned from: all that have a reward and a token."""
        trajectories = [sample.trajectory for sample in group.samples if sample.reward is not None]
        return [
            Item(
                block=self._blocks.number(trajectory.block),
                row=trajectory.row,
                num_tokens=trajectory.num_tokens,
                num_loss_tokens=trajectory.num_response_tokens,
            )
            for trajectory in trajectories
            if trajectory.num_response_tokens
        ]

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        turn = self._is_free.acquire()
        await waited(turn, what="the learner's turn", owner="learner", seconds=math.inf)  # its calls have deadlines
        try:
            yield
        finally:
            self._is_free.release()
