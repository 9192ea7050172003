import pytest
import torch

from algorithms.measures import finish, merge
from algorithms.supervised import next_token_loss

NAN = float("nan")


def test_next_token_loss_is_the_mean_surprise_of_counted_tokens():
    logprobs = torch.tensor([NAN, -1.0, -2.0, -float("inf"), -6.0], requires_grad=True)
    mask = torch.tensor([0, 1, 1, 0, 1]).bool()
    output = next_token_loss(logprobs, mask, num_loss_tokens=3)
    output.loss.backward()
    assert float(output.loss.detach()) == pytest.approx(3)
    assert logprobs.grad.tolist() == pytest.approx([0, -1 / 3, -1 / 3, 0, -1 / 3])
    assert finish(output.metrics) == {"supervised/loss": 3.0}


def test_shares_of_a_cut_batch_add_up():
    logprobs, mask = torch.tensor([-1.0, -2.0, -6.0]), torch.ones(3, dtype=torch.bool)
    parts = [next_token_loss(logprobs[cut], mask[cut], 3) for cut in (slice(0, 1), slice(1, 3))]
    assert float(sum(part.loss for part in parts)) == pytest.approx(3)
    assert finish(merge(part.metrics for part in parts)) == {"supervised/loss": 3.0}


def test_the_coefficient_scales_the_loss_but_not_its_metric():
    output = next_token_loss(torch.tensor([-2.0]), torch.tensor([True]), 1, coef=0.5)
    assert float(output.loss) == 1.0
    assert finish(output.metrics) == {"supervised/loss": 2.0}


def test_a_micro_batch_without_counted_tokens_gives_zero_on_the_graph():
    logprobs = torch.tensor([NAN], requires_grad=True)
    output = next_token_loss(logprobs, torch.tensor([False]), num_loss_tokens=0)
    output.loss.backward()
    assert output.loss == 0
    assert logprobs.grad.tolist() == [0]
