"""Means and their changes over the same prompts."""

import math

import numpy as np
import pytest

from metrics.change import change, mean_interval


def test_the_interval_of_a_change_is_that_of_the_differences() -> None:
    generator = np.random.default_rng(0)
    before = generator.normal(0, 5, 200)
    now = before + generator.normal(0.5, 0.5, 200)
    found = change(now, before)
    assert found == mean_interval(now - before)
    assert found.low < 0.5 < found.high
    assert found.high - found.low < 0.2  # the prompts' own spread cancels


def test_a_change_of_all_prompts_alike_is_beyond_noise_and_none_is_not() -> None:
    values = np.arange(64.0)
    assert change(values + 1, values).is_above_zero
    assert change(values - 1, values).is_below_zero
    none = change(values, values)
    assert (none.mean, none.is_above_zero, none.is_below_zero) == (0, False, False)


def test_turning_a_change_round_turns_its_interval_round() -> None:
    generator = np.random.default_rng(1)
    a, b = generator.normal(size=(2, 50))
    there, back = change(a, b), change(b, a)
    assert back.mean == -there.mean
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low))


def test_prompts_that_lack_a_number_are_left_out_in_pairs() -> None:
    assert change([1.0, math.nan, 3.0, 9.0], [0.0, 7.0, 2.0, math.nan]) == mean_interval([1.0, 1.0])
    assert math.isnan(change([math.nan], [1.0]).mean)


def test_other_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="3 prompts now and 2 before"):
        change([1.0] * 3, [1.0] * 2)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_noise_alone_is_rarely_beyond_noise_and_a_real_change_mostly_is(shift: float) -> None:
    generator = np.random.default_rng(2)
    draws = [generator.normal(shift, 2, 128) for _ in range(200)]
    share = np.mean([mean_interval(draw).is_above_zero for draw in draws])
    assert share > 0.98 if shift else 0.0 < share < 0.06  # one-sided: 2.5 %
