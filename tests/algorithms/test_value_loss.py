import math
from dataclasses import replace

import pytest
import torch

from algorithms.aggregation import LossTotals
from algorithms.measures import finish, merge
from algorithms.table import find_row
from algorithms.values import ValueInputs, explained_variance, value_loss

NAN = float("nan")
MASK = torch.tensor([0, 1, 1, 0, 1]).bool()
IDS = torch.tensor([0, 0, 0, 1, 1])
TOTALS = LossTotals(num_loss_tokens=3, num_sequences=2, max_response_tokens=4)
PPO = find_row("ppo")  # value_clip 0.2, token_mean


def inputs(old: list[float] | None = None) -> ValueInputs:
    return ValueInputs(
        values=torch.tensor([NAN, 1.0, 2.0, NAN, 0.5], dtype=torch.float64, requires_grad=True),
        returns=torch.tensor([NAN, 0.0, 3.0, NAN, 0.5], dtype=torch.float64),
        response_mask=MASK,
        sequence_ids=IDS,
        old_values=None if old is None else torch.tensor(old, dtype=torch.float64),
    )


def test_unclipped_value_loss_by_hand():
    output = value_loss(PPO, inputs(), TOTALS)
    assert float(output.loss.detach()) == pytest.approx((1 + 1 + 0) / 2 / 3)


def test_clipped_value_loss_by_hand():
    # Clipped to [1.2, 1.6], [0.8, 1.2], [0.3, 0.7]: errors (1.2)^2 over 1, (1.8)^2 over 1, 0.
    data = inputs(old=[NAN, 1.4, 1.0, NAN, 0.5])
    output = value_loss(PPO, data, TOTALS)
    assert float(output.loss.detach()) == pytest.approx((1.44 + 3.24) / 2 / 3)
    assert finish(output.metrics)["value/clip_fraction"] == pytest.approx(2 / 3)
    output.loss.backward()
    assert data.values.grad.tolist() == [0, 0, 0, 0, 0]  # both clipped terms are the larger ones


def test_without_value_clip_old_values_do_not_matter():
    row = replace(PPO, value_clip=0.0)
    data = inputs(old=[NAN, 1.4, 1.0, NAN, 0.5])
    output = value_loss(row, data, TOTALS)
    assert float(output.loss.detach()) == pytest.approx(1 / 3)
    output.loss.backward()
    assert data.values.grad.tolist() == pytest.approx([0, 1 / 3, -1 / 3, 0, 0])


def test_the_value_loss_is_aggregated_as_the_row_says():
    row = replace(PPO, aggregation="seq_mean_token_mean")
    assert float(value_loss(row, inputs(), TOTALS).loss.detach()) == pytest.approx((0.5 + 0) / 2)


def test_explained_variance_over_cut_parts_equals_that_of_the_whole():
    draw = torch.Generator().manual_seed(0)
    values, returns = torch.randn(2, 40, generator=draw, dtype=torch.float64)
    returns = returns + values

    def part(chosen: slice) -> dict:
        count = len(values[chosen])
        data = ValueInputs(
            values=values[chosen],
            returns=returns[chosen],
            response_mask=torch.ones(count, dtype=torch.bool),
            sequence_ids=torch.zeros(count, dtype=torch.int64),
        )
        return value_loss(PPO, data, TOTALS).metrics

    metrics = finish(merge([part(slice(0, 7)), part(slice(7, None))]))
    expected = 1 - (returns - values).var(correction=0) / returns.var(correction=0)
    assert explained_variance(metrics) == pytest.approx(float(expected), abs=1e-9)


def test_explained_variance_is_one_for_a_perfect_critic_and_nan_for_equal_returns():
    same = torch.tensor([1.0, 2.0, 3.0])
    data = ValueInputs(
        values=same, returns=same, response_mask=torch.ones(3, dtype=torch.bool), sequence_ids=torch.zeros(3).long()
    )
    assert explained_variance(finish(value_loss(PPO, data, TOTALS).metrics)) == pytest.approx(1)
    flat = replace(data, returns=torch.ones(3))
    assert math.isnan(explained_variance(finish(value_loss(PPO, flat, TOTALS).metrics)))


def test_an_empty_micro_batch_gives_a_zero_value_loss_on_the_graph():
    data = replace(inputs(), response_mask=torch.zeros(5, dtype=torch.bool))
    output = value_loss(PPO, data, TOTALS)
    output.loss.backward()
    assert output.loss == 0
    assert not data.values.grad.any()
