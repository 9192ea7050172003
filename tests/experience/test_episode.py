"""Episodes: token columns of one sample, and blocks of many."""

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experience.episode import Completion, Transcript, pack, sample_seed, single_turn
from experience.records import Sampling

SAMPLING = Sampling(num_samples=1, max_response_tokens=7, temperature=1.0, seed=0)


def transcript(num_tokens: int) -> Transcript:
    return Transcript(
        tokens=np.arange(num_tokens, dtype=np.int32),
        response_mask=np.arange(num_tokens) >= 1,
        rollout_logprobs=np.full(num_tokens, -0.5, dtype=np.float32),
        versions=np.full(num_tokens, 3, dtype=np.int32),
        finish_reason="stop",
    )


def test_a_single_turn_is_the_prompt_and_one_response() -> None:
    asked = []

    async def generate(tokens: np.ndarray, max_tokens: int) -> Completion:
        asked.append((tokens.tolist(), max_tokens))
        return Completion(
            tokens=np.array([8, 9], dtype=np.int32),
            logprobs=np.array([-1.0, -2.0], dtype=np.float32),
            versions=np.array([4, 5], dtype=np.int32),
            finish_reason="length",
        )

    result = asyncio.run(single_turn(np.array([5, 6, 7], dtype=np.int32), SAMPLING, generate))

    assert asked == [([5, 6, 7], 7)]
    assert result.tokens.tolist() == [5, 6, 7, 8, 9]
    assert result.response_mask.tolist() == [False, False, False, True, True]
    assert result.rollout_logprobs.tolist() == [0, 0, 0, -1, -2]
    assert result.versions.tolist() == [-1, -1, -1, 4, 5]
    assert result.finish_reason == "length"
    assert [result.tokens.dtype, result.versions.dtype] == [np.int32, np.int32]
    assert [result.response_mask.dtype, result.rollout_logprobs.dtype] == [np.bool_, np.float32]


@given(st.lists(st.integers(min_value=2, max_value=9), min_size=1, max_size=6))
def test_every_row_of_a_block_is_its_transcript(lengths: list[int]) -> None:
    transcripts = [transcript(length) for length in lengths]
    block = pack(transcripts)

    assert len(block) == len(transcripts)
    for row, expected in enumerate(transcripts):
        span = block.span(row)
        assert np.array_equal(block.tokens[span], expected.tokens)
        assert np.array_equal(block.response_mask[span], expected.response_mask)
        assert np.array_equal(block.rollout_logprobs[span], expected.rollout_logprobs)
        assert np.array_equal(block.versions[span], expected.versions)
    assert block.offsets[-1] == len(block.tokens) == len(block.versions)


def test_a_block_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        pack([])


def test_seeds_differ_in_every_coordinate() -> None:
    base = sample_seed(1, 2, 3, 4)
    others = [sample_seed(9, 2, 3, 4), sample_seed(1, 9, 3, 4), sample_seed(1, 2, 9, 4), sample_seed(1, 2, 3, 9)]
    assert len({base, *others}) == 5
    assert sample_seed(1, 2, 3, 4) == base


@given(st.integers(0, 2**32 - 1), st.integers(-(2**62), 2**62), st.integers(0, 10**6))
def test_seeds_are_accepted_by_a_torch_generator(seed: int, ordinal: int, index: int) -> None:
    assert 0 <= sample_seed(seed, ordinal, index) < 2**63
