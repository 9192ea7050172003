from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.algorithm import Algorithm
from algorithms.returns import RewardInputs, discounted_returns, gae, token_advantages, token_rewards
from algorithms.table import find_row
from algorithms.whitening import mean_and_variance, moments, whiten

NAN = float("nan")


def random_inputs(seed: int, num_sequences: int = 4) -> RewardInputs:
    """Packed sequences with prompts, gaps between turns, and perhaps no response at all."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 9, (num_sequences,), generator=draw)
    ids = torch.repeat_interleave(torch.arange(num_sequences), lengths)

    def column() -> torch.Tensor:
        return torch.randn(len(ids), generator=draw, dtype=torch.float64)

    return RewardInputs(
        rewards=torch.randn(num_sequences, generator=draw, dtype=torch.float64),
        response_mask=torch.rand(len(ids), generator=draw) < 0.6,
        sequence_ids=ids,
        old_logprobs=column() - 2,
        ref_logprobs=column() - 2,
        values=column(),
    )


def slow_advantages(row: Algorithm, inputs: RewardInputs) -> tuple[list[float], list[float]]:
    """Token by token from the end of each sequence."""
    mask, ids = inputs.response_mask.tolist(), inputs.sequence_ids.tolist()
    advantages, returns = [0.0] * len(ids), [0.0] * len(ids)
    for number in range(len(inputs.rewards)):
        later = later_value = 0.0
        reward = float(inputs.rewards[number])
        for t in reversed([t for t in range(len(ids)) if ids[t] == number and mask[t]]):
            if row.has_kl_in_reward:
                d = float(inputs.old_logprobs[t] - inputs.ref_logprobs[t])
                k3 = float(torch.tensor(-d, dtype=torch.float64).exp()) + d - 1
                reward -= row.kl_coef * {"k1": d, "k2": d * d / 2, "k3": k3}[row.kl_estimator]
            if row.needs_critic:
                value = float(inputs.values[t])
                later = reward + row.gamma * later_value - value + row.gamma * row.gae_lambda * later
                later_value = value
                returns[t] = later + value
            else:
                later = reward + row.gamma * later
                returns[t] = later
            advantages[t] = later
            reward = 0.0
    return advantages, returns


@pytest.mark.parametrize("name", ["ppo", "reinforce_pp", "reinforce"])
@pytest.mark.parametrize("gamma", [0.5, 0.9, 1.0])
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
@pytest.mark.parametrize("kl_coef", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_token_advantages_equal_the_slow_ones(name, gamma, estimator, kl_coef, seed):
    row = replace(find_row(name), gamma=gamma, kl_coef=kl_coef, kl_estimator=estimator, kl_place="reward")
    inputs = random_inputs(seed)
    fast = token_advantages(row, inputs)
    advantages, returns = slow_advantages(row, inputs)
    assert fast.advantages.tolist() == pytest.approx(advantages, abs=1e-9)
    assert fast.returns.tolist() == pytest.approx(returns, abs=1e-9)


def test_gae_by_hand():
    # Two tokens after a prompt, gamma 0.5, lambda 0.5: delta = [0.5*0.2 - 0.4, 1 - 0.2].
    mask, ids = torch.tensor([False, True, True]), torch.zeros(3, dtype=torch.int64)
    rewards, values = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([NAN, 0.4, 0.2])
    result = gae(rewards, values, mask, ids, gamma=0.5, decay=0.5)
    torch.testing.assert_close(result.advantages, torch.tensor([0.0, -0.3 + 0.25 * 0.8, 0.8]))
    torch.testing.assert_close(result.returns, torch.tensor([0.0, 0.3, 1.0]))


def test_gae_with_lambda_one_is_the_return_minus_the_value():
    inputs = random_inputs(5)
    mask, ids = inputs.response_mask, inputs.sequence_ids
    rewards = token_rewards(inputs.rewards, mask, ids)
    result = gae(rewards, inputs.values, mask, ids, gamma=0.9, decay=1.0)
    returns = discounted_returns(rewards, mask, ids, 0.9)
    torch.testing.assert_close(result.returns, returns)
    torch.testing.assert_close(result.advantages, torch.where(mask, returns - inputs.values, 0))


def test_the_reward_is_on_the_last_response_token():
    mask = torch.tensor([0, 1, 1, 0, 0, 0, 1, 0, 1]).bool()
    ids = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 2])
    assert token_rewards(torch.tensor([5.0, 6.0, 7.0]), mask, ids).tolist() == [0, 0, 5, 0, 0, 0, 0, 0, 7]


def test_a_constant_return_of_long_sequences_is_exact():
    mask, ids = torch.ones(1000, dtype=torch.bool), torch.arange(1000) // 250
    rewards = token_rewards(torch.tensor([1.0, 2.0, 3.0, 4.0]), mask, ids)
    assert torch.equal(discounted_returns(rewards, mask, ids, 1.0), ids + 1.0)


@pytest.mark.parametrize("poison", [NAN, float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["ppo", "reinforce_pp"])
def test_masked_tokens_change_nothing_whatever_they_hold(name, poison):
    inputs = random_inputs(6)
    columns = {
        key: torch.where(inputs.response_mask, getattr(inputs, key), poison)
        for key in ("old_logprobs", "ref_logprobs", "values")
    }
    clean = token_advantages(find_row(name), inputs)
    bad = token_advantages(find_row(name), replace(inputs, **columns))
    assert torch.equal(bad.advantages, clean.advantages)
    assert torch.equal(bad.returns, clean.returns)


def test_no_response_token_gives_no_advantage():
    inputs = replace(random_inputs(7), response_mask=torch.zeros_like(random_inputs(7).response_mask))
    assert not token_advantages(find_row("ppo"), inputs).advantages.any()


@pytest.mark.parametrize(("name", "missing"), [("reinforce_pp", "ref_logprobs"), ("ppo", "values")])
def test_a_missing_column_is_told(name, missing):
    with pytest.raises(ValueError, match="needs"):
        token_advantages(find_row(name), replace(random_inputs(8), **{missing: None}))


@settings(deadline=None, max_examples=50)
@given(
    values=st.lists(st.tuples(st.floats(-100, 100), st.booleans()), min_size=1, max_size=20),
    cut=st.integers(0, 20),
)
def test_whitening_from_summed_moments_does_not_depend_on_the_cut(values, cut):
    tensor = torch.tensor([v for v, _ in values], dtype=torch.float64)
    mask = torch.tensor([m for _, m in values])
    whole = whiten(tensor, mask, moments(tensor, mask))
    summed = moments(tensor[:cut], mask[:cut]) + moments(tensor[cut:], mask[cut:])
    parts = [whiten(tensor[part], mask[part], summed) for part in (slice(None, cut), slice(cut, None))]
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-6, rtol=1e-6)


def test_whitening_equals_mean_and_deviation_over_the_mask():
    values, mask = torch.tensor([1.0, NAN, 4.0, 7.0, -float("inf")]), torch.tensor([1, 0, 1, 1, 0]).bool()
    whitened = whiten(values, mask, moments(values, mask))
    torch.testing.assert_close(whitened, torch.tensor([-(1.5**0.5), 0, 0, 1.5**0.5, 0]))


@pytest.mark.parametrize("value", [0.0, 0.1, -1e6])
@pytest.mark.parametrize("count", [1, 3, 1000])
def test_equal_values_are_whitened_to_zero(value, count):
    values, mask = torch.full((count,), value), torch.ones(count, dtype=torch.bool)
    assert not whiten(values, mask, moments(values, mask)).any()


def test_rounding_noise_of_equal_values_is_not_blown_up():
    values, mask = torch.tensor([1000.0, 1000.0001, 1000.0]), torch.ones(3, dtype=torch.bool)
    assert not whiten(values, mask, moments(values, mask)).any()


def test_moments_of_nothing_are_harmless():
    values, mask = torch.tensor([NAN]), torch.tensor([False])
    mean, variance = mean_and_variance(moments(values, mask))
    assert (float(mean), float(variance)) == (0.0, 0.0)
    assert whiten(values, mask, moments(values, mask)).tolist() == [0.0]
