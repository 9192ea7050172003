from dataclasses import replace

import numpy as np
import pytest
import torch

from experience.records import Item, Ranking, TokenBlock
from trainers.packed import pack, pack_tokens


def block(*rows: list[int], num_prompt_tokens: int = 1) -> TokenBlock:
    """Rows with a prompt of one token; log-probs are -token / 10, versions the row's number."""
    tokens = np.array([token for row in rows for token in row], dtype=np.int32)
    mask = np.array([place >= num_prompt_tokens for row in rows for place in range(len(row))])
    row_ids = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    return TokenBlock(
        offsets=np.cumsum([0, *map(len, rows)], dtype=np.int64),
        tokens=tokens,
        response_mask=mask,
        rollout_logprobs=np.where(mask, -tokens / 10, 0).astype(np.float32),
        versions=np.where(mask, row_ids, -1).astype(np.int32),
    )


def test_sequences_of_several_blocks_stand_end_to_end() -> None:
    blocks = [block([1, 2, 3], [4, 5]), block([6, 7, 8, 9])]
    items = (
        Item(block=1, row=0, num_tokens=4, num_loss_tokens=3, advantage=-2.0),
        Item(block=0, row=1, num_tokens=2, num_loss_tokens=1, advantage=0.5),
    )
    packed = pack(blocks, items)
    assert packed.lengths == (4, 2)
    assert packed.input_ids.tolist() == [6, 7, 8, 9, 4, 5]
    assert packed.position_ids.tolist() == [0, 1, 2, 3, 0, 1]
    assert packed.cu_seqlens.tolist() == [0, 4, 6]
    assert packed.sequence_ids.tolist() == [0, 0, 0, 0, 1, 1]
    assert packed.response_mask.tolist() == [False, True, True, True, False, True]
    assert packed.rollout_logprobs.tolist() == pytest.approx([0, -0.7, -0.8, -0.9, 0, -0.5])
    assert packed.versions.tolist() == [-1, 0, 0, 0, -1, 1]
    assert packed.advantages.tolist() == [0, -2, -2, -2, 0, 0.5]
    assert packed.max_seqlen == 4


def test_dtypes_are_those_that_kernels_take() -> None:
    packed = pack({0: block([1, 2])}, (Item(block=0, row=0, num_tokens=2),))
    assert packed.input_ids.dtype == packed.position_ids.dtype == packed.sequence_ids.dtype == torch.int64
    assert packed.cu_seqlens.dtype == packed.versions.dtype == torch.int32
    assert packed.advantages.dtype == packed.rollout_logprobs.dtype == torch.float32
    assert packed.response_mask.dtype == torch.bool


def test_an_empty_micro_batch_becomes_a_dummy_that_nothing_counts() -> None:
    packed = pack([], ())
    assert packed.lengths == (2,)
    assert not packed.response_mask.any()
    assert not packed.advantages.any()
    assert packed.versions.tolist() == [-1, -1]


def test_an_item_of_another_length_than_its_row_is_refused() -> None:
    with pytest.raises(ValueError, match="row 0 holds 2 tokens, but its item says 3"):
        pack([block([1, 2])], (Item(block=0, row=0, num_tokens=3),))


def test_a_counted_first_token_is_refused() -> None:
    with pytest.raises(ValueError, match="row 0: response_mask counts the sequence's first token"):
        pack([block([1, 2], num_prompt_tokens=0)], (Item(block=0, row=0, num_tokens=2),))


def test_split_undoes_packing() -> None:
    packed = pack_tokens([[1, 2, 3], [4], [5, 6]])
    assert [part.tolist() for part in packed.split(packed.input_ids)] == [[1, 2, 3], [4], [5, 6]]


def test_bare_tokens_count_all_but_the_first() -> None:
    assert pack_tokens([[1, 2, 3], [4]]).response_mask.tolist() == [False, True, True, False]


def test_responses_that_are_compared_are_one_item() -> None:
    ranked = replace(
        block([1, 2], [3, 4, 5], [6, 7], [8, 9]),
        ranking=Ranking(edges=np.array([0, 1, 3, 4]), ratings=np.array([0.0, 2.0, 1.0, 5.0], dtype=np.float32)),
    )
    items = (
        Item(block=0, row=3, num_tokens=2),
        Item(block=0, row=1, num_tokens=5, num_rows=2, advantage=3.0),
    )
    packed = pack([ranked], items)
    assert packed.lengths == (2, 3, 2)
    assert packed.input_ids.tolist() == [8, 9, 3, 4, 5, 6, 7]
    assert packed.item_ids.tolist() == [0, 1, 1]
    assert packed.ratings.tolist() == [5, 2, 1]
    assert packed.advantages.tolist() == [0, 1, 0, 3, 3, 0, 3]
