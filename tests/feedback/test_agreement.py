"""Agreement and bias against closed forms."""

import math

import pytest

from feedback.agreement import krippendorff_alpha, labelling, percent_agreement
from feedback.journal import Judgement


def judged(pair: str, labeller: str, choice: str, left: int = 0) -> Judgement:
    return Judgement(
        id=f"{pair}{labeller}",
        pair=pair,
        labeller=labeller,
        choice=choice,
        left=left,
        seconds=2.0,  # type: ignore[arg-type]
    )


def test_alpha_of_krippendorffs_example() -> None:
    # "Computing Krippendorff's Alpha-Reliability" (2011), section C: four coders, nominal, missing values; 0.743.
    table = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    units = [[row[unit] for row in table if row[unit] is not None] for unit in range(12)]
    assert krippendorff_alpha(units) == pytest.approx(0.743, abs=5e-4)


def test_perfect_and_opposite_labellers() -> None:
    assert krippendorff_alpha([[0, 0], [1, 1]]) == 1.0
    assert krippendorff_alpha([[0, 1], [0, 1]]) < 0
    assert percent_agreement([[0, 0], [0, 1]]) == 0.5


def test_without_overlap_nothing_is_claimed() -> None:
    assert math.isnan(krippendorff_alpha([[0], [1]])) and math.isnan(percent_agreement([[0], [1]]))
    assert math.isnan(krippendorff_alpha([[0, 0], [0, 0]]))


def test_the_same_preference_from_other_sides_agrees() -> None:
    found = labelling([judged("p", "ann", "left", left=0), judged("p", "bob", "right", left=1)])
    assert (found.agreement, found.num_pairs, found.num_judgements) == (1.0, 1, 2)


def test_who_always_prefers_the_left_is_seen() -> None:
    biased = labelling([judged(f"p{number}", "ann", "left", left=number % 2) for number in range(40)])
    assert biased.left_share == 1.0 and biased.is_biased
    fair = labelling([judged(f"p{number}", "ann", ("left", "right")[number % 2]) for number in range(40)])
    assert fair.left_share == 0.5 and not fair.is_biased


def test_no_judgements_have_a_summary_too() -> None:
    found = labelling([])
    assert found.num_judgements == 0 and math.isnan(found.left_share) and not found.is_biased
