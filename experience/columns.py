"""One number for each token of a batch, on its way from the ranks that find it to those that need it."""

# N sequences, T tokens of them all

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from experience.records import Batch, Item

Place: TypeAlias = tuple[int, int]  # of a sequence: its block in the batch, its row in the block


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenColumn:
    """What one rank found of its sequences, one after the other, prompts included.

    `places`: N, where each sequence stands. `offsets`: [N + 1]; sequence i has values[offsets[i]:offsets[i + 1]].
    """

    places: tuple[Place, ...]
    offsets: NDArray[np.int64]
    values: NDArray[np.float32]  # [T]

    def by_place(self) -> Mapping[Place, NDArray[np.float32]]:
        """Each sequence's own values, read in place."""
        spans = pairwise(self.offsets.tolist())
        return {place: self.values[start:end] for place, (start, end) in zip(self.places, spans, strict=True)}


def place_of(item: Item) -> Place:
    """Where the item's sequence stands."""
    return item.block, item.row


def places_of(batch: Batch) -> frozenset[Place]:
    """The sequences of all mini-batches."""
    micro_batches = [micro for mini in batch.mini_batches for rank in mini.ranks for micro in rank]
    return frozenset(place_of(item) for micro_batch in micro_batches for item in micro_batch)
