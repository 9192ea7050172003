"""Scores of micro-batches as columns that travel, and back again for whatever micro-batches the reader has."""

# T packed tokens of one micro-batch

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experience.columns import Place, TokenColumn, place_of
from experience.records import Batch, MicroBatch
from trainers.lanes import Lanes
from trainers.packed import Packed
from trainers.passes import Packs, Scores, own_micro_batches


def column_of(scores: Scores) -> TokenColumn:
    """The scores of a rank's micro-batches; those of empty ones are nobody's, and stay behind."""
    filled = {micro_batch: values for micro_batch, values in scores.items() if micro_batch}
    items = [item for micro_batch in filled for item in micro_batch]
    parts = [values.detach().float().cpu().numpy() for values in filled.values()]
    return TokenColumn(
        places=tuple(place_of(item) for item in items),
        offsets=np.cumsum([0, *(item.num_tokens for item in items)]),
        values=np.concatenate([np.zeros(0, dtype=np.float32), *parts]),
    )


def scores_from(columns: Iterable[TokenColumn], micro_batches: Iterable[MicroBatch], packs: Packs) -> Scores:
    """The scores of `micro_batches`, whose sequences stand in any of the columns. ValueError if one does not."""
    found: dict[Place, NDArray[np.float32]] = {}
    for column in columns:
        found |= column.by_place()
    return {micro_batch: _scores(found, micro_batch, packs[micro_batch]) for micro_batch in micro_batches}


def lanes_from(columns: Mapping[str, Iterable[TokenColumn]], batch: Batch, packs: Packs) -> Lanes:
    """The lanes of this rank's micro-batches, from the columns of each by its name in Lanes."""
    micro_batches = own_micro_batches(batch.mini_batches)
    return Lanes(**{name: scores_from(found, micro_batches, packs) for name, found in columns.items()})


def _scores(found: Mapping[Place, NDArray[np.float32]], micro_batch: MicroBatch, packed: Packed) -> Tensor:
    if not micro_batch:
        return torch.zeros(packed.num_tokens, device=packed.input_ids.device)
    missing = [item for item in micro_batch if place_of(item) not in found]
    if missing:
        raise ValueError(f"block {missing[0].block}, row {missing[0].row}: in none of the columns that were sent")
    values = np.concatenate([found[place_of(item)] for item in micro_batch])
    return torch.from_numpy(values).to(packed.input_ids.device)
