"""best-of-k against the pick in every subset."""

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics.best_of import best_of_k
from metrics.intervals import pass_at_k

SCORED = st.lists(st.tuples(st.integers(-2, 2), st.booleans()), min_size=1, max_size=8)


def slow_best(scores: list[float], values: list[float], k: int) -> float:
    """In every subset the pick is drawn from those with the highest score."""
    picks = []
    for subset in combinations(zip(scores, values, strict=True), k):
        best = max(score for score, _ in subset)
        picks.append(np.mean([value for score, value in subset if score == best]))
    return float(np.mean(picks))


@given(SCORED, st.data())
def test_it_is_the_mean_over_all_subsets(scored: list[tuple[int, bool]], data: st.DataObject) -> None:
    scores, values = [float(score) for score, _ in scored], [float(value) for _, value in scored]
    k = data.draw(st.integers(1, len(scored)))
    assert best_of_k(scores, values, k) == pytest.approx(slow_best(scores, values, k), abs=1e-12)
    assert best_of_k(scores, scores, k) == pytest.approx(slow_best(scores, scores, k), abs=1e-12)


@given(SCORED)
def test_more_to_pick_from_never_has_a_lower_score(scored: list[tuple[int, bool]]) -> None:
    scores = [float(score) for score, _ in scored]
    heights = [best_of_k(scores, scores, k) for k in range(1, len(scores) + 1)]
    assert all(one <= other + 1e-12 for one, other in pairwise(heights))
    assert heights[0] == pytest.approx(np.mean(scores))
    assert heights[-1] == pytest.approx(max(scores))


@given(SCORED, st.data())
def test_a_scorer_that_knows_the_verdict_reaches_pass_at_k(scored: list[tuple[int, bool]], data: st.DataObject) -> None:
    values = [float(value) for _, value in scored]
    k = data.draw(st.integers(1, len(values)))
    assert best_of_k(values, values, k) == pytest.approx(pass_at_k(len(values), int(sum(values)), k), abs=1e-12)


def test_a_scorer_without_an_opinion_picks_at_random() -> None:
    assert best_of_k([0.5] * 4, [1.0, 0.0, 0.0, 0.0], 3) == pytest.approx(0.25)


def test_a_scorer_that_likes_what_is_wrong_is_told_so() -> None:
    """Of 4 samples the one that is right has the lowest score: it is picked where it is alone."""
    scores, values = [0.0, 1.0, 2.0, 3.0], [1.0, 0.0, 0.0, 0.0]
    assert [best_of_k(scores, values, k) for k in (1, 2, 4)] == [0.25, 0.0, 0.0]


def test_large_counts_do_not_overflow() -> None:
    assert best_of_k(list(range(3000)), [0.0] * 2999 + [1.0], 1500) == pytest.approx(0.5)


@pytest.mark.parametrize(("scores", "k"), [([1.0], 2), ([1.0], 0), ([float("nan"), 1.0], 1)])
def test_impossible_counts_and_missing_scores_are_refused(scores: list[float], k: int) -> None:
    with pytest.raises(ValueError, match="needs 1 <= k <= scores"):
        best_of_k(scores, [1.0] * len(scores), k)
