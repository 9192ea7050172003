import pytest
import torch

from algorithms.aggregation import LossTotals, aggregate, token_weights

# Two sequences with responses of 2 and 3 tokens, and one without.
MASK = torch.tensor([0, 1, 1, 0, 1, 1, 1, 0]).bool()
IDS = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2])
LOSSES = torch.tensor([9.0, 1.0, 3.0, 9.0, 6.0, 7.0, 8.0, 9.0])
TOTALS = LossTotals(num_loss_tokens=5, num_sequences=3, max_response_tokens=10)


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("token_mean", 25 / 5),
        ("seq_mean_token_mean", (4 / 2 + 21 / 3) / 3),
        ("seq_mean_token_sum", 25 / 3),
        ("seq_mean_token_sum_norm", 25 / 3 / 10),
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
    assert float(weights.sum()) == pytest.approx(5 / 50)


def test_a_step_without_any_token_has_zero_weights():
    nothing = LossTotals(num_loss_tokens=0, num_sequences=0, max_response_tokens=10)
    for aggregation in ("token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "seq_mean_token_sum_norm"):
        assert not token_weights(aggregation, torch.zeros_like(MASK), IDS, nothing).any()
