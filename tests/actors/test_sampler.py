"""Drawing tokens: the right frequencies, and nothing but seed and position decides."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from actors.sampler import SeededSampler, inverse_cdf, uniform

PROBABILITIES = torch.tensor([0.5, 0.0, 0.125, 0.25, 0.125])


def test_draws_fall_into_their_tokens_share() -> None:
    draws = torch.tensor([0.0, 0.499, 0.501, 0.62, 0.63, 0.874, 0.876, 1 - 2**-53], dtype=torch.float64)
    logprobs = PROBABILITIES.log().expand(len(draws), -1)
    assert inverse_cdf(logprobs, draws).tolist() == [0, 0, 2, 2, 3, 3, 4, 4]


@given(st.integers(0, 2**63 - 1))
def test_tokens_come_as_often_as_they_are_probable(seed: int) -> None:
    positions = np.arange(4000)
    logprobs = PROBABILITIES.log().expand(len(positions), -1)
    drawn = inverse_cdf(logprobs, torch.from_numpy(uniform([seed] * len(positions), positions)))
    shares = torch.bincount(drawn, minlength=5) / len(positions)
    # 5 standard deviations of the largest variance, 0.25 / 4000
    torch.testing.assert_close(shares, PROBABILITIES, atol=0.04, rtol=0)
    assert shares[1] == 0


def test_draws_of_neighbouring_seeds_are_uncorrelated() -> None:
    positions = np.arange(20_000)
    first, second = uniform([5] * 20_000, positions), uniform([6] * 20_000, positions)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.03
    assert first.min() >= 0 and first.max() < 1


def test_a_row_does_not_depend_on_the_other_rows() -> None:
    seeds, positions = [11, 12, 13], np.array([3, 70, 5])
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    tokens, logprobs = SeededSampler(lambda: (seeds, positions))(logits, {}, None, None)
    for row in range(3):
        alone = SeededSampler(lambda row=row: (seeds[row : row + 1], positions[row : row + 1]))
        token, logprob = alone(logits[row : row + 1], {}, None, None)
        assert token == tokens[row]
        assert torch.equal(logprob[0], logprobs[row])


def test_top_p_is_not_overlooked() -> None:
    with pytest.raises(AssertionError):
        SeededSampler(lambda: ([1], np.array([0])))(torch.zeros(1, 2), {}, None, torch.ones(1))
