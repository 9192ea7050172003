import math

import pytest
import torch

from algorithms.measures import MetricSum, finish, from_vectors, max_over, mean_over, merge, to_vectors

MASK = torch.tensor([True, True, False])


def part(first: float, second: float) -> dict:
    values = torch.tensor([first, second, float("nan")])
    return {
        "mean": mean_over(values, MASK),
        "highest": max_over(values, MASK),
        "sum": MetricSum(total=values[0]),
    }


def test_merged_parts_equal_the_whole():
    assert finish(merge([part(1, 2), part(3, 6)])) == {"mean": 3.0, "highest": 6.0, "sum": 4.0}


def test_vectors_reduced_over_ranks_equal_the_whole():
    ranks = [to_vectors(part(1, 2)), to_vectors(part(3, 6))]
    sums = ranks[0][0] + ranks[1][0]
    maxima = torch.maximum(ranks[0][1], ranks[1][1])
    assert from_vectors(part(0, 0), sums, maxima) == {"mean": 3.0, "highest": 6.0, "sum": 4.0}


def test_a_name_that_only_some_parts_have_is_kept():
    assert finish(merge([part(1, 2), {"extra": MetricSum(total=torch.tensor(5.0))}]))["extra"] == 5.0


def test_the_mean_of_nothing_is_nan_and_its_maximum_zero():
    nothing = torch.zeros(3, dtype=torch.bool)
    values = torch.full((3,), float("inf"))
    final = finish({"mean": mean_over(values, nothing), "highest": max_over(values, nothing)})
    assert math.isnan(final["mean"])
    assert final["highest"] == 0.0


def test_no_metrics_make_empty_vectors():
    assert [len(vector) for vector in to_vectors({})] == [0, 0]


def test_one_name_measured_in_two_ways_is_refused():
    with pytest.raises(TypeError, match="two ways"):
        merge([part(1, 2), {"mean": MetricSum(total=torch.tensor(1.0))}])
