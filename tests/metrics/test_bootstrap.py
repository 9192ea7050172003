"""The bootstrap against all resamples there are, closed forms, and its coverage."""

from itertools import product
from statistics import NormalDist

import numpy as np
import pytest

from metrics.bootstrap import percentiles, resampled_means


def interval(values: list[float], *, num_resamples: int = 2000, seed: int = 0, confidence: float = 0.95) -> list[float]:
    means = resampled_means(np.array(values)[:, None], num_resamples=num_resamples, seed=seed)
    return percentiles(means, confidence)[:, 0].tolist()


def test_the_means_are_distributed_as_those_of_all_resamples() -> None:
    values = np.array([0.0, 1.0, 5.0, 7.0])
    every = np.array([np.mean(resample) for resample in product(values, repeat=4)])  # 4^4, equally likely
    drawn = resampled_means(values[:, None], num_resamples=40_000)[:, 0]
    for mean in np.unique(every):
        assert (drawn == mean).mean() == pytest.approx((every == mean).mean(), abs=0.01)


def test_the_spread_of_the_means_is_the_published_one() -> None:
    """Efron & Tibshirani 1993, table 2.1 and equation 2.4: seven treated mice, standard error 23.36."""
    mice = np.array([94.0, 197.0, 16.0, 38.0, 99.0, 141.0, 23.0])
    assert resampled_means(mice[:, None], num_resamples=40_000).std() == pytest.approx(23.36, abs=0.3)


def test_equal_values_have_no_width() -> None:
    assert interval([0.25] * 7) == [0.25, 0.25]


def test_the_interval_of_a_proportion_follows_the_binomial() -> None:
    # The mean of a resample of 30 ones in 100 is Binomial(100, 0.3) / 100: 95 % of it lies in 0.21..0.39.
    assert interval([1.0] * 30 + [0.0] * 70, num_resamples=20_000) == pytest.approx([0.21, 0.39], abs=0.011)


def test_the_interval_nears_the_normal_one() -> None:
    values = np.random.default_rng(1).normal(5.0, 2.0, size=400)
    half = NormalDist().inv_cdf(0.95) * values.std() / np.sqrt(len(values))
    ends = interval(values.tolist(), confidence=0.9, num_resamples=10_000)
    assert ends == pytest.approx([values.mean() - half, values.mean() + half], abs=0.1 * half)


def test_the_interval_covers_the_true_mean() -> None:
    generator, hits = np.random.default_rng(2), 0
    for seed in range(400):
        hits += np.prod(np.array(interval(generator.beta(0.5, 0.5, size=80).tolist(), seed=seed)) - 0.5) <= 0
    assert 0.92 <= hits / 400 <= 0.98


def test_numbers_of_the_same_prompts_see_the_same_resamples() -> None:
    values = np.random.default_rng(0).normal(size=(30, 1))
    means = resampled_means(np.hstack([values, values + 2, -values]))
    assert means[:, 1] == pytest.approx(means[:, 0] + 2)
    assert means[:, 2] == pytest.approx(-means[:, 0])


def test_the_bootstrap_is_a_function_of_its_seed() -> None:
    assert interval([0.0, 1.0, 4.0, 9.0], seed=3) == interval([0.0, 1.0, 4.0, 9.0], seed=3)
    values = np.array([[0.0], [1.0], [4.0], [9.0]])
    assert (resampled_means(values, seed=3) != resampled_means(values, seed=4)).any()


def test_resamples_of_many_prompts_are_drawn_in_pieces() -> None:
    values = np.random.default_rng(0).normal(size=(50_000, 1))  # 80 resamples a piece
    means = resampled_means(values, num_resamples=200)
    assert len(np.unique(means)) == 200
    assert means.std() == pytest.approx(values.std() / 50_000**0.5, rel=0.2)


def test_a_prompt_without_a_number_leaves_that_mean_alone() -> None:
    nan = float("nan")
    means = resampled_means(np.array([[1.0, 2.0, nan], [1.0, nan, nan], [1.0, 2.0, nan]]), num_resamples=500)
    assert (means[:, 0] == 1).all()
    assert set(means[~np.isnan(means[:, 1]), 1]) == {2.0}
    assert np.isnan(means[:, 1]).mean() == pytest.approx(1 / 27, abs=0.03)  # resamples of the second prompt alone
    assert np.isnan(percentiles(means)).tolist() == [[False, False, True], [False, False, True]]


@pytest.mark.parametrize("values", [np.empty((0, 1)), np.array([1.0]), np.array([[float("inf")]])])
def test_what_has_no_mean_is_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="none infinite"):
        resampled_means(values)
