"""Intervals and pass@k against closed forms and slow, obvious versions."""

from itertools import combinations
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics.intervals import clustered_mean, clustered_wilson, pass_at_k, wilson

PROPORTIONS = st.integers(1, 200).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total)))


def test_wilson_at_no_success_is_the_closed_form() -> None:
    z2 = NormalDist().inv_cdf(0.975) ** 2
    assert wilson(0, 10) == pytest.approx((0.0, z2 / (10 + z2)))
    assert wilson(10, 10) == pytest.approx((10 / (10 + z2), 1.0))


@given(PROPORTIONS)
def test_wilson_s_ends_solve_the_score_equation(proportion: tuple[int, int]) -> None:
    successes, total = proportion
    low, high = wilson(successes, total)
    share, z = successes / total, NormalDist().inv_cdf(0.975)
    assert 0 <= low <= share <= high <= 1
    for end in (low, high):
        assert (share - end) ** 2 == pytest.approx(z**2 * end * (1 - end) / total, abs=1e-12)


@given(PROPORTIONS)
def test_wilson_is_symmetric_in_success_and_failure(proportion: tuple[int, int]) -> None:
    successes, total = proportion
    low, high = wilson(successes, total)
    assert wilson(total - successes, total) == pytest.approx((1 - high, 1 - low), abs=1e-12)


def moments(wins: np.ndarray, trials: np.ndarray) -> list[float]:
    return [float(x.sum()) for x in (wins, trials, wins**2, wins * trials, trials**2, np.ones(len(wins)))]


def test_clusters_of_one_trial_are_no_clusters() -> None:
    wins = np.array([1.0] * 130 + [0.0] * 70)
    assert clustered_wilson(moments(wins, np.ones(200))) == pytest.approx(wilson(130, 200), abs=1e-3)


def test_clusters_that_repeat_one_trial_count_it_once() -> None:
    wins = np.array([1.0] * 130 + [0.0] * 70)
    assert clustered_wilson(moments(6 * wins, np.full(200, 6.0))) == pytest.approx(wilson(130, 200), abs=1e-3)


def test_clusters_without_variance_count_once_each() -> None:
    assert clustered_wilson(moments(np.full(10, 3.0), np.full(10, 3.0))) == pytest.approx(wilson(10, 10))
    assert clustered_wilson(moments(np.full(10, 1.0), np.full(10, 2.0))) == pytest.approx(wilson(5, 10))


def test_the_clustered_interval_covers_the_true_share() -> None:
    """2,000 samples of 60 prompts, each with an accuracy of its own: 95 % of the intervals hold the mean of 0.6."""
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        trials = generator.integers(1, 5, size=60).astype(float)
        wins = generator.binomial(trials.astype(int), generator.beta(0.9, 0.6, size=60)).astype(float)
        low, high = clustered_wilson(moments(wins, trials))
        covered += low <= 0.6 <= high
    assert 0.93 < covered / 2000 < 0.97


def test_no_trials_have_no_interval() -> None:
    assert np.isnan(clustered_wilson([0.0] * 6)).all()


@pytest.mark.parametrize(("successes", "total"), [(1, 0), (0, 0), (-1, 3), (4, 3)])
def test_what_is_no_proportion_is_refused(successes: int, total: int) -> None:
    with pytest.raises(ValueError, match="is no proportion"):
        wilson(successes, total)


def test_a_clustered_mean_without_clusters_is_the_normal_interval() -> None:
    values = np.random.default_rng(3).normal(size=50)
    half = NormalDist().inv_cdf(0.975) * values.std(ddof=1) / 50**0.5
    expected = (values.mean() - half, values.mean() + half)
    assert clustered_mean(values.tolist(), range(50)) == pytest.approx(expected)


def test_samples_that_repeat_their_prompt_add_no_certainty() -> None:
    once = clustered_mean([0.0, 1.0, 0.5], [4, 5, 6])
    assert clustered_mean([0.0, 1.0, 0.5] * 8, [4, 5, 6] * 8) == pytest.approx(once)


def test_the_clustered_interval_covers_the_true_mean() -> None:
    generator, hits = np.random.default_rng(1), 0
    for _ in range(400):
        prompts = np.repeat(np.arange(60), generator.integers(1, 9, size=60))
        values = generator.normal(size=60)[prompts] + generator.normal(size=len(prompts))
        low, high = clustered_mean(values.tolist(), prompts.tolist())
        hits += low <= 0 <= high
    assert 0.92 <= hits / 400 <= 0.98


def test_one_cluster_shows_no_variance() -> None:
    assert np.isnan(clustered_mean([0.0, 1.0], [3, 3])).all()
    assert np.isnan(clustered_mean([], [])).all()


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("correct", [0, 1, 3, 5])
def test_pass_at_k_is_the_share_of_draws_with_a_right_one(correct: int, k: int) -> None:
    samples = [True] * correct + [False] * (5 - correct)
    draws = [any(draw) for draw in combinations(samples, k)]
    assert pass_at_k(5, correct, k) == pytest.approx(sum(draws) / len(draws))


def test_pass_at_1_is_the_accuracy_and_large_counts_are_exact() -> None:
    assert pass_at_k(8, 3, 1) == pytest.approx(3 / 8)
    assert pass_at_k(10_000, 1, 5_000) == pytest.approx(0.5)


@pytest.mark.parametrize(("samples", "correct", "k"), [(4, 5, 1), (4, -1, 1), (4, 1, 5), (4, 1, 0)])
def test_pass_at_k_refuses_impossible_counts(samples: int, correct: int, k: int) -> None:
    with pytest.raises(ValueError, match="needs 0 <= correct"):
        pass_at_k(samples, correct, k)
