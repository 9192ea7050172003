"""An evaluation's numbers: of a data set, their mean over sets, and of two models."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics.intervals import wilson
from tests.trainers.measured import measured, responses
from trainers.scorecard import GREEDY, Card, card, compare, estimates, ks, numbers

NAN = float("nan")
RIGHT = st.lists(st.booleans(), min_size=1, max_size=12)


def greedy_card(name: str, right: list[bool]) -> Card:
    return card(measured(name, responses([[one] for one in right])))


def test_every_number_of_a_data_set() -> None:
    sampled = responses(
        [[1, 0, 1, 0], [0, 0, 0, 1]],
        classes=[[0, 1, 0, None], [0, 0, 1, 2]],
        scores=[[4.0, 3.0, 2.0, 1.0], [4.0, 3.0, 2.0, 1.0]],
    )
    columns = card(measured("set", responses([[1], [0]], scores=[[0.5], [0.7]]), sampled)).columns
    expected = {
        "greedy accuracy": [1, 0],
        "greedy score": [0.5, 0.7],
        "sampled accuracy": [1 / 2, 1 / 4],
        "pass@1": [1 / 2, 1 / 4],
        "pass@2": [5 / 6, 1 / 2],
        "pass@4": [1, 1],
        # Of the 6 pairs of the first: both of class 0; 2 times a tie with 1; 2 times 0 alone; 1 alone.
        "maj@2": [(1 + 2 / 2 + 2) / 6, (2 / 2 + 1 / 2) / 6],
        "maj@4": [1, 0],
        "sampled score": [2.5, 2.5],
        "best-of-2": [(3 + 1) / 6, 0],
        "best-of-2 score": [(3 * 4 + 2 * 3 + 2) / 6] * 2,
        "best-of-4": [1, 0],
        "best-of-4 score": [4, 4],
    }
    assert set(columns) == set(expected)
    for name, values in expected.items():
        assert columns[name].tolist() == pytest.approx(values), name


def test_without_answers_and_without_a_reward_model_there_are_fewer_numbers() -> None:
    found = card(measured("set", responses([[1]]), responses([[1, 0]])))
    assert list(found.columns) == ["greedy accuracy", "sampled accuracy", "pass@1", "pass@2"]
    assert list(greedy_card("set", [True]).columns) == ["greedy accuracy"]


def test_a_prompt_that_the_reward_model_failed_on_is_left_out_of_its_numbers_alone() -> None:
    sampled = responses([[1, 0], [0, 1]], scores=[[2.0, NAN], [1.0, 0.0]])
    found = estimates([card(measured("set", responses([[1], [1]]), sampled))], seed=0)
    assert (found["best-of-2"].value, found["best-of-2 score"].value, found["sampled score"].value) == (0, 1, 0.5)
    assert found["pass@2"].value == 1


def test_a_number_that_no_prompt_has_is_nan() -> None:
    found = estimates([card(measured("set", responses([[1]], scores=[[NAN]])))], seed=0)
    assert np.isnan([found["greedy score"].value, found["greedy score"].low]).all()
    assert found[GREEDY].value == 1


def test_a_mean_weighs_every_set_alike() -> None:
    small, large = greedy_card("small", [True, False]), greedy_card("large", [True] * 90 + [False] * 10)
    assert estimates([small, large], seed=0)[GREEDY].value == pytest.approx((0.5 + 0.9) / 2)


def test_a_mean_has_the_numbers_that_all_sets_have() -> None:
    scored = card(measured("scored", responses([[1]], scores=[[1.0]])))
    assert list(estimates([scored, greedy_card("plain", [True])], seed=0)) == [GREEDY]


def test_the_interval_of_a_mean_of_sets_is_that_of_independent_means() -> None:
    """The variance of a mean of two is a quarter of the sum of theirs."""
    generator = np.random.default_rng(0)
    cards = [Card(name=name, columns={GREEDY: generator.normal(size=300)}) for name in "ab"]
    widths = [one.high - one.low for one in (estimates([card], seed=0)[GREEDY] for card in cards)]
    both = estimates(cards, seed=0)[GREEDY]
    assert both.high - both.low == pytest.approx(np.hypot(*widths) / 2, rel=0.07)


def test_a_set_is_resampled_by_its_name_and_the_seed() -> None:
    one, other = greedy_card("one", [True, False, True]), greedy_card("other", [True, False, True])
    assert numbers(one, seed=1) == numbers(greedy_card("one", [True, False, True]), seed=1)
    assert (one.resampled(1) != other.resampled(1)).any() and (one.resampled(1) != one.resampled(2)).any()


@given(RIGHT)
def test_the_greedy_accuracy_of_a_set_has_wilson_s_interval(right: list[bool]) -> None:
    found = numbers(greedy_card("set", right), seed=0)[GREEDY]
    assert (found.low, found.high) == wilson(sum(right), len(right))
    assert found.low <= found.value <= found.high and found.low < found.high


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=20))
def test_a_comparison_counts_the_prompts_that_one_model_alone_solves(pairs: list[tuple[bool, bool]]) -> None:
    first, second = ([pair[model] for pair in pairs] for model in (0, 1))
    found = compare([greedy_card("set", first)], [greedy_card("set", second)], seed=0)
    back = compare([greedy_card("set", second)], [greedy_card("set", first)], seed=0)
    assert (found.only_first, found.only_second) == (pairs.count((True, False)), pairs.count((False, True)))
    assert (back.only_first, back.only_second, back.p_value) == (found.only_second, found.only_first, found.p_value)
    assert found.differences[GREEDY].value == pytest.approx(np.mean(first) - np.mean(second))
    assert found.differences[GREEDY].low == pytest.approx(-back.differences[GREEDY].high)


def test_a_difference_is_resampled_in_pairs() -> None:
    """A model that answers the same prompts, and one more of 200, differs by that one: apart they would overlap far."""
    first = [True] * 101 + [False] * 99
    found = compare([greedy_card("set", first)], [greedy_card("set", [False, *first[1:]])], seed=0)
    difference = found.differences[GREEDY]
    assert (difference.value, found.p_value) == (pytest.approx(1 / 200), 1.0)
    assert 0 <= difference.low <= difference.high <= 4 / 200


def test_the_prompts_of_all_sets_are_tested_together() -> None:
    first = [greedy_card("a", [True] * 4), greedy_card("b", [True] * 3 + [False])]
    second = [greedy_card("a", [False] * 3 + [True]), greedy_card("b", [False] * 3 + [False])]
    found = compare(first, second, seed=0)
    assert (found.only_first, found.only_second, found.p_value) == (6, 0, 2 / 2**6)
    assert found.differences[GREEDY].value == pytest.approx(3 / 4)


def test_two_models_have_win_rates_by_reward() -> None:
    """Greedy: one win, one tie. Sampled: of the pairs of the first prompt half are won, all others are ties."""
    first = card(measured("set", responses([[1], [0]]), responses([[1, 0], [0, 0]])))
    second = card(measured("set", responses([[0], [0]]), responses([[0, 0], [0, 0]])))
    found, back = compare([first], [second], seed=0).win_rates, compare([second], [first], seed=0).win_rates
    assert (found["greedy win rate"].value, found["sampled win rate"].value) == (0.75, 0.625)
    assert found["sampled win rate"].high == pytest.approx(1 - back["sampled win rate"].low)
    assert found["greedy win rate"].low == 0.5 and found["greedy win rate"].high == 1.0


def test_a_prompt_whose_verdict_failed_has_no_win_rate() -> None:
    first = card(measured("set", responses([[1], [0]], failed=(1,))))
    second = card(measured("set", responses([[0], [1]])))
    assert compare([first], [second], seed=0).win_rates["greedy win rate"].value == 1.0


@pytest.mark.parametrize(
    ("num_samples", "expected"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (12, [1, 2, 4, 8, 12])]
)
def test_k_is_a_power_of_two_or_all(num_samples: int, expected: list[int]) -> None:
    assert ks(num_samples) == expected
