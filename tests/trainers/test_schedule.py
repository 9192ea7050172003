import pytest

from configs.schema.training import OptimizerConfig
from trainers.schedule import learning_rate


def rates(total: int, **keys: object) -> list[float]:
    config = OptimizerConfig.model_validate({"learning_rate": 1.0, **keys})
    return [learning_rate(config, step, total) for step in range(total + 1)]


def test_warm_up_rises_by_equal_steps_to_the_peak() -> None:
    assert rates(6, warmup_steps=4) == [0.25, 0.5, 0.75, 1, 1, 1, 1]


def test_linear_ends_at_the_minimum_and_stays_there() -> None:
    expected = [0.5, 1, 0.775, 0.55, 0.325, 0.1, 0.1]
    assert rates(6, warmup_steps=2, schedule="linear") == pytest.approx(expected)


def test_cosine_is_half_way_down_in_the_middle() -> None:
    found = rates(4, schedule="cosine", min_learning_rate_ratio=0.0)
    assert found[1] == pytest.approx(0.5)
    assert found[3:] == pytest.approx([0, 0])


def test_a_warm_up_longer_than_the_run_never_decays() -> None:
    assert rates(2, warmup_steps=4, schedule="cosine") == [0.25, 0.5, 0.75]
