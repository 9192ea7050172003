import pytest
import torch

from algorithms.aggregation import LossTotals, aggregate, token_weights

# Responses of 2, 3, 0 and 1 tokens.
MASK = torch.tensor([0, 1, 1, 0, 1, 1, 1, 0, 0, 1]).bool()
IDS = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 3, 3])
LOSSES = torch.tensor([9.0, 1.0, 3.0, 9.0, 6.0, 7.0, 8.0, 9.0, 9.0, 5.0])
TOTALS = LossTotals(num_loss_tokens=6, num_sequences=4, max_response_tokens=10)


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("token_mean", 30 / 6),
        ("seq_mean_token_mean", (4 / 2 + 21 / 3 + 5 / 1) / 4),
        ("seq_mean_token_sum", 30 / 4),
        ("seq_mean_token_sum_norm", 30 / 4 / 10),
    ],
)
def test_each_aggregation_by_hand(aggregation, expected):
    weights = token_weights(aggregation, MASK, IDS, TOTALS)
    assert not weights[~MASK].any()
    assert float(aggregate(LOSSES, weights)) == pytest.approx(expected)


def test_weights_of_a_share_use_the_totals_of_the_whole_step():
    weights = token_weights(
        "token_mean", MASK, IDS, LossTotals(num_loss_tokens=50, num_sequences=9, max_response_tokens=10)
    )
    assert float(weights.sum()) == pytest.approx(6 / 50)


def test_a_step_without_any_token_has_zero_weights():
    nothing = LossTotals(num_loss_tokens=0, num_sequences=0, max_response_tokens=10)
    for aggregation in ("token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "seq_mean_token_sum_norm"):
        assert not token_weights(aggregation, torch.zeros_like(MASK), IDS, nothing).any()
