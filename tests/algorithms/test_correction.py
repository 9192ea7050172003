import math
from dataclasses import replace

import pytest
import torch

from algorithms.correction import correction_weights, mismatch_metrics
from algorithms.measures import finish
from algorithms.table import resolve
from algorithms.traits import CORRECTIONS, Correction
from configs.schema.algorithm import AlgorithmConfig

# Sequence 0 has token ratios 4 and 0.5 (product 2, geometric mean 1.41), sequence 1 has 1.5 and 0.2.
MASK = torch.tensor([0, 1, 1, 0, 1, 1]).bool()
IDS = torch.tensor([0, 0, 0, 1, 1, 1])
RATIOS = torch.tensor([1.0, 4.0, 0.5, 1.0, 1.5, 0.2], dtype=torch.float64)


def factors(correction: Correction) -> list[float]:
    return correction_weights(correction, RATIOS.log(), MASK, IDS)[MASK].tolist()


@pytest.mark.parametrize(
    ("name", "low", "high", "expected"),
    [
        ("none", None, None, [1, 1, 1, 1]),
        ("tis", None, None, [2, 0.5, 1.5, 0.2]),
        ("tis", None, 1.2, [1.2, 0.5, 1.2, 0.2]),
        ("sequence_tis", None, 1.7, [1.7, 1.7, 0.3, 0.3]),
        ("icepop", None, None, [4, 0.5, 1.5, 0]),
        ("mis", None, None, [0, 0.5, 1.5, 0.2]),
        ("mis", 0.4, None, [0, 0.5, 1.5, 0]),
        ("sequence_mis", None, 1.9, [0, 0, 0.3, 0.3]),
        ("sequence_mis", 0.5, 2.1, [2, 2, 0, 0]),
        ("geometric_mis", None, None, [0, 0, 0, 0]),
        ("geometric_mis", 0.9, 1.5, [1, 1, 0, 0]),
    ],
)
def test_each_correction_by_hand(name, low, high, expected):
    named = CORRECTIONS[name]
    bounds = replace(named, low=named.low if low is None else low, high=named.high if high is None else high)
    assert factors(bounds) == pytest.approx(expected, abs=1e-9)


def test_a_recipe_sets_the_bounds():
    row = resolve(AlgorithmConfig(correction="icepop", correction_low=0.3))
    assert row.rollout_correction == Correction(weight="token", mask="token", low=0.3, high=5.0)


@pytest.mark.parametrize("name", sorted(CORRECTIONS))
def test_engines_that_agree_need_no_correction(name):
    assert correction_weights(CORRECTIONS[name], torch.zeros(6), MASK, IDS).tolist() == [1.0] * 6


def test_mismatch_metrics_by_hand():
    log_weight = torch.where(MASK, RATIOS.log(), 0)
    metrics = finish(mismatch_metrics(log_weight, torch.tensor([1.0, 0, 0.5, 1, 1.5, 1]), MASK))
    ratios = [4.0, 0.5, 1.5, 0.2]
    assert metrics == pytest.approx(
        {
            "mismatch/mean_abs": sum(abs(math.log(r)) for r in ratios) / 4,
            "mismatch/max_abs": math.log(5),
            "mismatch/kl": sum(r - 1 - math.log(r) for r in ratios) / 4,
            "mismatch/weight_mean": 3 / 4,
            "mismatch/masked_fraction": 1 / 4,
        }
    )
