"""maj@k against the vote in every subset, and its closed forms."""

from collections import Counter
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics.intervals import pass_at_k
from metrics.votes import majority_at_k

CLASSES = st.lists(st.one_of(st.none(), st.integers(0, 3)), min_size=1, max_size=8)
SAMPLES = CLASSES.flatmap(
    lambda classes: st.tuples(
        st.just(classes), st.lists(st.booleans(), min_size=len(classes), max_size=len(classes)), st.integers(1, 8)
    )
).filter(lambda drawn: drawn[2] <= len(drawn[0]))


def slow_majority(classes: list[int | None], is_right: list[bool], k: int) -> float:
    """Every subset votes; of the classes that are level each has its share, with the verdicts of all its samples."""
    verdicts = {c: [right for other, right in zip(classes, is_right, strict=True) if other == c] for c in set(classes)}
    outcomes = []
    for subset in combinations(classes, k):
        votes = Counter(c for c in subset if c is not None)
        best = [c for c, count in votes.items() if count == max(votes.values())]
        outcomes.append(float(np.mean([np.mean(verdicts[c]) for c in best])) if best else 0.0)
    return float(np.mean(outcomes))


@given(SAMPLES)
def test_it_is_the_mean_over_all_subsets(drawn: tuple[list[int | None], list[bool], int]) -> None:
    assert majority_at_k(*drawn) == pytest.approx(slow_majority(*drawn), abs=1e-12)


@given(SAMPLES)
def test_it_never_beats_one_right_answer_among_k(drawn: tuple[list[int | None], list[bool], int]) -> None:
    classes, is_right, k = drawn
    assert majority_at_k(classes, is_right, k) <= pass_at_k(len(classes), sum(is_right), k) + 1e-12


@given(SAMPLES, st.randoms())
def test_the_order_and_the_names_of_classes_mean_nothing(
    drawn: tuple[list[int | None], list[bool], int], random: np.random.Generator
) -> None:
    classes, is_right, k = drawn
    together = list(zip([None if c is None else 7 - c for c in classes], is_right, strict=True))
    random.shuffle(together)
    shuffled = majority_at_k([c for c, _ in together], [right for _, right in together], k)
    assert shuffled == pytest.approx(majority_at_k(classes, is_right, k), abs=1e-12)


@given(SAMPLES)
def test_where_every_answer_is_right_only_silence_is_wrong(drawn: tuple[list[int | None], list[bool], int]) -> None:
    classes, _, k = drawn
    expected = 1 - comb(classes.count(None), k) / comb(len(classes), k)
    assert majority_at_k(classes, [True] * len(classes), k) == pytest.approx(expected, abs=1e-12)


def test_two_classes_follow_the_hypergeometric_distribution() -> None:
    """60 right and 40 wrong of 100: a vote of 21 is right when at least 11 of its 21 are."""
    expected = sum(comb(60, x) * comb(40, 21 - x) for x in range(11, 22)) / comb(100, 21)
    assert majority_at_k([0] * 60 + [1] * 40, [True] * 60 + [False] * 40, 21) == pytest.approx(expected, rel=1e-10)


def test_a_vote_of_one_is_the_accuracy_and_of_all_the_plain_vote() -> None:
    classes, is_right = [0, 0, 1, 1, 2, None], [True, True, False, False, False, False]
    assert majority_at_k(classes, is_right, 1) == pytest.approx(2 / 6)
    assert majority_at_k(classes, is_right, 6) == pytest.approx(1 / 2)  # a tie of two classes
    assert majority_at_k([*classes, 0], [*is_right, True], 7) == pytest.approx(1.0)
    assert majority_at_k([None, None], [False, True], 2) == 0.0


def test_large_counts_neither_overflow_nor_lose_digits() -> None:
    expected = sum(comb(2000, x) * comb(1000, 301 - x) for x in range(151, 302)) / comb(3000, 301)
    found = majority_at_k([0] * 2000 + [1] * 1000, [True] * 2000 + [False] * 1000, 301)
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("num_samples", "k"), [(4, 5), (4, 0), (0, 1)])
def test_impossible_counts_are_refused(num_samples: int, k: int) -> None:
    with pytest.raises(ValueError, match="needs 1 <= k <= samples"):
        majority_at_k([0] * num_samples, [True] * num_samples, k)
