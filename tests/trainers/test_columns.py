import numpy as np
import pytest
import torch

from experience.columns import TokenColumn, places_of
from experience.records import Batch, Item, MiniBatch, TokenBlock
from trainers.columns import column_of, scores_from
from trainers.passes import Packs

LENGTHS = (3, 2, 4)
BLOCK = TokenBlock(
    offsets=np.array([0, 3, 5, 9]),
    tokens=np.arange(9, dtype=np.int32),
    response_mask=np.array([0, 1, 1, 0, 1, 0, 0, 1, 1], dtype=np.bool_),
    rollout_logprobs=np.zeros(9, dtype=np.float32),
    versions=np.zeros(9, dtype=np.int32),
)
A, B, C = (Item(block=7, row=row, num_tokens=length) for row, length in enumerate(LENGTHS))
PACKS = Packs({7: BLOCK}, torch.device("cpu"))


def test_scores_find_their_way_to_other_micro_batches() -> None:
    one = column_of({(C, A): torch.arange(7.0), (): torch.tensor([8.0, 9.0])})
    other = column_of({(B,): torch.tensor([-1.0, -2.0], dtype=torch.float64)})
    assert one.places == ((7, 2), (7, 0)) and one.offsets.tolist() == [0, 4, 7]
    found = scores_from([one, other], [(A, B), (C,), ()], PACKS)
    assert {micro: values.tolist() for micro, values in found.items()} == {
        (A, B): [4, 5, 6, -1, -2],
        (C,): [0, 1, 2, 3],
        (): [0, 0],
    }
    assert all(values.dtype == torch.float32 for values in found.values())


def test_a_rank_without_a_sequence_has_an_empty_column() -> None:
    column = column_of({(): torch.zeros(2)})
    assert column.places == () and len(column.values) == 0 and column.by_place() == {}
    with pytest.raises(ValueError, match="block 7, row 1: in none of the columns"):
        scores_from([column], [(B,)], PACKS)


def test_a_column_is_read_in_place() -> None:
    column = TokenColumn(places=((0, 0), (0, 1)), offsets=np.array([0, 1, 3]), values=np.array([1, 2, 3], np.float32))
    second = column.by_place()[0, 1]
    assert second.tolist() == [2, 3] and np.shares_memory(second, column.values)


def test_the_places_of_a_batch_are_those_of_all_mini_batches_and_not_of_what_is_mixed_in() -> None:
    first = MiniBatch(ranks=(((A,), ()), ((B,), ())), num_items=2, num_sequences=2, num_loss_tokens=3)
    second = MiniBatch(ranks=(((C,),), ((),)), num_items=1, num_sequences=1, num_loss_tokens=2)
    batch = Batch(blocks=(), mini_batches=(first,), mixed=(second,))
    assert places_of(batch) == {(7, 0), (7, 1)}
    assert places_of(Batch(blocks=(), mini_batches=(first, second)).of_rank(0)) == {(7, 0), (7, 2)}
