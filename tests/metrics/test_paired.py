"""Two models compared: against every way that the prompts could go, every pair of responses, and published values."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics.paired import mcnemar, win_rates

COUNT = st.integers(0, 5)


@given(COUNT, COUNT)
def test_it_is_the_share_of_outcomes_as_far_from_even(only_first: int, only_second: int) -> None:
    total = only_first + only_second
    gaps = [abs(2 * sum(ways) - total) for ways in product((0, 1), repeat=total)]
    expected = np.mean([gap >= abs(only_first - only_second) for gap in gaps])
    assert mcnemar(only_first, only_second) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [
        (1, 7, 0.0703),  # Fagerland, Lydersen & Laake 2013 (doi:10.1186/1471-2288-13-91): airways before and after
        (0, 6, 0.03125),  # 2 / 2^6
        (10, 2, 2 * (1 + 12 + 66) / 2**12),
    ],
)
def test_published_and_closed_values(only_first: int, only_second: int, p: float) -> None:
    assert mcnemar(only_first, only_second) == pytest.approx(p, rel=0.01)


def test_equal_counts_show_nothing() -> None:
    assert mcnemar(0, 0) == mcnemar(4, 4) == 1.0


@given(st.integers(0, 2000), st.integers(0, 2000))
def test_the_order_of_the_models_means_nothing(one: int, other: int) -> None:
    assert 0 <= mcnemar(one, other) == mcnemar(other, one) <= 1


def test_equal_models_are_rarely_told_apart() -> None:
    """Of pairs of equally good models, at most 5 % differ at the level of 5 %."""
    wins = np.random.default_rng(0).binomial(40, 0.5, size=4000)
    assert np.mean([mcnemar(int(win), 40 - int(win)) <= 0.05 for win in wins]) <= 0.055


def test_what_is_no_count_is_refused() -> None:
    with pytest.raises(ValueError, match="no counts"):
        mcnemar(-1, 2)


REWARDS = st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=1, max_size=4)


@given(st.lists(st.tuples(REWARDS, REWARDS), min_size=1, max_size=4))
def test_a_win_rate_counts_every_pair_of_a_prompt(prompts: list[tuple[list[float], list[float]]]) -> None:
    for first, second in prompts:
        pairs = [(a > b) + (a == b) / 2 for a, b in product(first, second)]
        assert win_rates(np.array([first]), np.array([second])) == pytest.approx(np.mean(pairs))
        assert win_rates(np.array([second]), np.array([first])) == pytest.approx(1 - np.mean(pairs))


def test_each_prompt_has_its_own_win_rate_and_none_without_a_reward() -> None:
    found = win_rates(np.array([[1.0, 0.0], [0.5, 0.5], [1.0, np.nan]]), np.array([[0.5], [0.5], [0.0]]))
    assert found[:2].tolist() == [0.5, 0.5] and np.isnan(found[2])


def test_win_rates_of_other_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="of 1 and of 2 prompts"):
        win_rates(np.ones((1, 2)), np.ones((2, 2)))
