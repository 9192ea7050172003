"""Pre-training sequences that go into each update beside its mini-batch: PPO-ptx, and SFT that forgets less."""

from dataclasses import replace

from experience.packing import plan_block
from experience.records import Batch
from experience.sequences import SequenceStream


class Mixer:
    """Adds the sequences of update k to the k-th update of a run, so that a resumed run repeats none."""

    def __init__(
        self, stream: SequenceStream, *, count: int, coef: float, num_ranks: int, tokens_per_micro_batch: int
    ) -> None:
        self._stream = stream
        self._count = count
        self._coef = coef
        self._num_ranks = num_ranks
        self._tokens_per_micro_batch = tokens_per_micro_batch

    def mix(self, batch: Batch, first_update: int) -> Batch:
        """`batch` with the sequences of its updates, the first of which is the run's `first_update` (from 0)."""
        blocks = [self._stream.block(first_update + number, self._count) for number in range(len(batch.updates))]
        mixed = tuple(
            plan_block(
                block,
                number=len(batch.blocks) + place,
                num_ranks=self._num_ranks,
                tokens_per_micro_batch=self._tokens_per_micro_batch,
            )
            for place, block in enumerate(blocks)
        )
        return replace(batch, blocks=(*batch.blocks, *blocks), mixed=mixed, mixed_coef=self._coef)
