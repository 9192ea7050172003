import math

import pytest
import torch

from algorithms.measures import Measure, finish, merge
from algorithms.preference import (
    accuracy_bounds,
    bradley_terry_loss,
    calibration_error,
    calibration_sums,
    implicit_rewards,
    pair_metrics,
    ranked_pairs,
)
from metrics.intervals import clustered_wilson


def surprise(difference: float) -> float:
    return math.log1p(math.exp(-difference))


def test_all_pairs_of_a_ranking_count_once_and_their_weights_add_up_to_one():
    prompts = torch.tensor([7, 7, 7, 2, 2])
    ratings = torch.tensor([1.0, 3.0, 2.0, 5.0, 4.0])
    pairs = ranked_pairs(prompts, ratings, margin_scale=0.5)
    found = dict(
        zip(zip(pairs.chosen.tolist(), pairs.rejected.tolist(), strict=True), pairs.weights.tolist(), strict=True)
    )
    assert found == pytest.approx({(1, 0): 1 / 3, (1, 2): 1 / 3, (2, 0): 1 / 3, (3, 4): 1})
    margins = dict(zip(found, pairs.margins.tolist(), strict=True))
    assert margins == {(1, 0): 1.0, (1, 2): 0.5, (2, 0): 0.5, (3, 4): 0.5}


def test_equal_ratings_and_single_responses_make_no_pair():
    pairs = ranked_pairs(torch.tensor([0, 0, 0, 1]), torch.tensor([1.0, 1.0, 0.0, 9.0]))
    assert sorted(zip(pairs.chosen.tolist(), pairs.rejected.tolist(), strict=True)) == [(0, 2), (1, 2)]
    assert pairs.weights.tolist() == [0.5, 0.5]


def test_bradley_terry_by_hand_with_its_gradient():
    rewards = torch.tensor([1.0, 0.5, -1.0], dtype=torch.float64, requires_grad=True)
    pairs = ranked_pairs(torch.zeros(3, dtype=torch.int64), torch.tensor([2.0, 1.0, 0.0]), margin_scale=0.1)
    output = bradley_terry_loss(rewards, pairs, num_prompts=2)
    differences = {(0, 1): 0.5 - 0.1, (0, 2): 2.0 - 0.2, (1, 2): 1.5 - 0.1}
    assert float(output.loss.detach()) == pytest.approx(sum(map(surprise, differences.values())) / 3 / 2, abs=1e-6)
    output.loss.backward()
    gradient = [0.0, 0.0, 0.0]
    for (chosen, rejected), difference in differences.items():
        pull = 1 / (1 + math.exp(difference)) / 3 / 2
        gradient[chosen] -= pull
        gradient[rejected] += pull
    assert rewards.grad.tolist() == pytest.approx(gradient, abs=1e-6)


def test_bradley_terry_gradient_agrees_with_finite_differences():
    pairs = ranked_pairs(torch.tensor([0, 0, 0, 1, 1]), torch.tensor([2.0, 1.0, 0.0, 1.0, 3.0]), margin_scale=0.3)
    rewards = torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda r: bradley_terry_loss(r, pairs, 2).loss, (rewards,))


def test_preference_metrics_by_hand():
    pairs = ranked_pairs(torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([1.0, 0.0] * 3))
    metrics = finish(bradley_terry_loss(torch.tensor([2.0, 0.0, 0.0, 1.0, 3.0, 3.0]), pairs, 3).metrics)
    assert metrics["preference/accuracy"] == pytest.approx((1 + 0 + 0.5) / 3)
    assert metrics["preference/reward_difference"] == pytest.approx(1 / 3)
    expected_loss = (surprise(2) + surprise(-1) + surprise(0)) / 3
    assert metrics["preference/loss"] == pytest.approx(expected_loss, abs=1e-6)


def test_no_pairs_give_a_zero_loss_on_the_graph():
    rewards = torch.tensor([1.0, 2.0], requires_grad=True)
    output = bradley_terry_loss(rewards, ranked_pairs(torch.tensor([0, 1]), torch.tensor([1.0, 2.0])), 0)
    output.loss.backward()
    assert output.loss == 0
    assert rewards.grad.tolist() == [0, 0]


def test_far_apart_rewards_stay_finite():
    rewards = torch.tensor([-1e4, 1e4], requires_grad=True)
    output = bradley_terry_loss(rewards, ranked_pairs(torch.tensor([0, 0]), torch.tensor([1.0, 0.0])), 1)
    output.loss.backward()
    assert float(output.loss.detach()) == pytest.approx(2e4)
    assert rewards.grad.tolist() == [-1, 1]


def test_dpo_is_bradley_terry_on_implicit_rewards() -> None:
    """arXiv:2305.18290, eq. 7, by hand, with its gradient by each response's log-prob."""
    logprobs = torch.tensor([-10.0, -12.0, -5.0, -4.0], dtype=torch.float64, requires_grad=True)
    ref_logprobs = torch.tensor([-11.0, -11.0, -5.0, -6.0], dtype=torch.float64)
    pairs = ranked_pairs(torch.tensor([0, 0, 1, 1]), torch.tensor([1.0, 0.0] * 2))
    output = bradley_terry_loss(implicit_rewards(logprobs, ref_logprobs, beta=0.5), pairs, num_prompts=4)
    differences = [0.5 * (1 - -1), 0.5 * (0 - 2)]
    assert float(output.loss.detach()) == pytest.approx(sum(map(surprise, differences)) / 4, abs=1e-9)
    output.loss.backward()
    pulls = [0.5 / (1 + math.exp(d)) / 4 for d in differences]
    expected = [pull for pair in pulls for pull in (-pair, pair)]
    assert logprobs.grad.tolist() == pytest.approx(expected, abs=1e-9)
    metrics = finish(output.metrics)
    assert metrics["preference/accuracy"] == 0.5
    assert metrics["preference/chosen_reward"] == pytest.approx((0.5 + 0) / 2)
    assert metrics["preference/rejected_reward"] == pytest.approx((-0.5 + 1) / 2)


def test_label_smoothing_is_the_expected_loss_over_flipped_labels() -> None:
    pairs = ranked_pairs(torch.tensor([0, 0]), torch.tensor([1.0, 0.0]), margin_scale=0.5)
    output = bradley_terry_loss(torch.tensor([1.0, -1.0]), pairs, 1, label_smoothing=0.1)
    assert float(output.loss) == pytest.approx(0.9 * surprise(1.5) + 0.1 * surprise(-1.5), abs=1e-6)


def test_accuracy_bounds_take_the_pairs_of_a_prompt_as_one_cluster() -> None:
    prompts = torch.tensor([4, 4, 4, 9, 9, 2])
    ratings = torch.tensor([2.0, 1.0, 0.0, 1.0, 0.0, 0.0])
    rewards = torch.tensor([3.0, 1.0, 2.0, 0.0, 1.0, 5.0])  # two of three pairs, none of one; no pair in the last
    low, high = accuracy_bounds(rewards, ranked_pairs(prompts, ratings), prompts)
    expected = clustered_wilson([2, 4, 4, 6, 10, 2])
    assert (finish({"a": low})["a"], finish({"a": high})["a"]) == pytest.approx(expected)


def test_metrics_of_pairs_are_the_same_however_prompts_are_cut() -> None:
    generator = torch.Generator().manual_seed(3)
    prompts, ratings = torch.arange(8).repeat_interleave(3), torch.randint(0, 3, (24,), generator=generator)
    rewards = torch.randn(24, generator=generator)

    def measured(rows: slice) -> dict[str, Measure]:
        pairs = ranked_pairs(prompts[rows], ratings[rows])
        low, high = accuracy_bounds(rewards[rows], pairs, prompts[rows])
        return {**pair_metrics(rewards[rows], pairs), "low": low, "high": high}

    whole, parts = measured(slice(24)), merge([measured(slice(9)), measured(slice(9, 12)), measured(slice(12, 24))])
    assert finish(parts) == pytest.approx(finish(whole), rel=1e-6)


def test_calibration_error_by_hand():
    # Two pairs predicted at 0.9, one of them won; one at 0.6, won. Bins of width 0.05.
    sums = calibration_sums(torch.tensor([0.9001, 0.0999, 0.6001]).logit())
    assert calibration_error(sums) == pytest.approx((abs(2 * 0.9001 - 1) + abs(0.6001 - 1)) / 3, abs=1e-6)


def test_the_surest_pairs_have_a_bin_of_their_own():
    # Predicted at 0.92 (won), 0.97 (lost) and 1 (won): the last two share a bin.
    differences = torch.cat([torch.tensor([0.92, 0.03]).logit(), torch.tensor([100.0])])
    assert calibration_error(calibration_sums(differences)) == pytest.approx((0.08 + 0.97) / 3, abs=1e-6)


def test_calibration_sums_add_up_over_cuts():
    differences = torch.randn(50, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(
        calibration_sums(differences[:20]) + calibration_sums(differences[20:]), calibration_sums(differences)
    )
