"""The law of over-optimisation: what is put in comes out."""

import math

import numpy as np
import pytest

from metrics.overoptimisation import Fit, fit

DISTANCES = [0.3, 0.8, 1.5, 2.5, 4.0, 6.0]


def law(alpha: float, beta: float) -> list[float]:
    return [d * (alpha - beta * math.log(d)) for d in DISTANCES]


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.5), (0.2, 0.9), (0.7, -0.1), (-0.3, 0.2)])
def test_a_curve_without_noise_is_found_again(alpha: float, beta: float) -> None:
    found = fit(DISTANCES, law(alpha, beta))
    assert found is not None
    assert (found.alpha, found.beta) == pytest.approx((alpha, beta))
    assert (found.alpha_error, found.beta_error) == pytest.approx((0, 0), abs=1e-6)
    assert [found.gain(d) for d in DISTANCES] == pytest.approx(law(alpha, beta))


def test_the_look_at_the_initial_policy_says_nothing_and_changes_nothing() -> None:
    assert fit([0.0, *DISTANCES], [0.0, *law(1, 0.5)]) == fit(DISTANCES, law(1, 0.5))
    assert fit([*DISTANCES, math.nan], [*law(1, 0.5), 1.0]) == fit(DISTANCES, law(1, 0.5))


def test_the_peak_is_where_the_curve_is_highest() -> None:
    found = Fit(alpha=1.0, beta=0.5, alpha_error=0, beta_error=0)
    assert found.peak is not None
    grid = np.linspace(0.01, 10, 5000)
    assert found.peak == pytest.approx(grid[np.argmax([found.gain(d) for d in grid])], abs=0.01)
    assert found.gain(found.peak) == pytest.approx(found.beta * found.peak)
    assert found.gain(0) == 0


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.0), (1.0, -0.5), (1000.0, 0.1)])
def test_a_curve_that_only_rises_has_no_peak(alpha: float, beta: float) -> None:
    assert Fit(alpha=alpha, beta=beta, alpha_error=0, beta_error=0).peak is None


def test_too_few_looks_or_all_at_one_distance_give_no_fit() -> None:
    assert fit([0.0, 1.0, 2.0], [0.0, 1.0, 1.5]) is None
    assert fit([2.0] * 5, [1.0, 1.1, 0.9, 1.0, 1.0]) is None


def test_noise_is_told_by_the_errors() -> None:
    generator = np.random.default_rng(0)
    distances = np.linspace(0.2, 6, 30)
    truth = Fit(alpha=1.0, beta=0.5, alpha_error=0, beta_error=0)
    off = []
    for _ in range(200):
        found = fit(distances.tolist(), [truth.gain(d) + generator.normal(0, 0.2) for d in distances])
        assert found is not None
        off.append(abs(found.alpha - 1.0) < 2 * found.alpha_error)
    assert 0.88 < np.mean(off) < 0.99
