import pytest
import torch

from algorithms.shaping import can_teach, overlong_penalty


def test_overlong_penalty_by_hand():
    # Limit 100, the last 20 tokens are penalised.
    lengths = torch.tensor([0, 50, 80, 85, 100, 130])
    assert overlong_penalty(lengths, 100, 0.2).tolist() == pytest.approx([0, 0, 0, -0.25, -1, -1])


def test_no_share_means_no_penalty():
    assert overlong_penalty(torch.tensor([5, 100]), 100, 0.0).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ([1.0, 0.0], True),
        ([1.0, 1.0], False),
        ([1.0], False),
        ([], False),
        ([None, 1.0], False),
        ([None, 1.0, 0.5], True),
    ],
)
def test_only_groups_with_different_rewards_can_teach(rewards, expected):
    assert can_teach(rewards) is expected
