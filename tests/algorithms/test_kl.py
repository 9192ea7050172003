import math

import pytest
import torch

from algorithms.kl import AdaptiveKl, FixedKl, kl_controller, kl_estimate
from algorithms.table import resolve
from configs.schema.algorithm import AlgorithmConfig


@pytest.mark.parametrize(("estimator", "expected"), [("k1", 0.5), ("k2", 0.125), ("k3", math.exp(-0.5) + 0.5 - 1)])
def test_each_estimator_by_hand(estimator, expected):
    logprobs, ref = torch.tensor([-1.0], dtype=torch.float64), torch.tensor([-1.5], dtype=torch.float64)
    assert float(kl_estimate(estimator, logprobs, ref)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_unbiased_estimators_have_the_divergence_as_their_mean(estimator):
    policy, ref = torch.tensor([0.5, 0.3, 0.2]).log(), torch.tensor([0.2, 0.2, 0.6]).log()
    expected = (policy.exp() * (policy - ref)).sum()
    torch.testing.assert_close((policy.exp() * kl_estimate(estimator, policy, ref)).sum(), expected)


def expected_gradient(estimator: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean over on-policy samples of the estimator's gradient, and the gradient of the divergence itself."""
    logits = torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64, requires_grad=True)
    policy, ref = logits.log_softmax(0), torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64).log()
    sampled = (policy.detach().exp() * kl_estimate(estimator, policy, ref)).sum()
    exact = (policy.exp() * (policy - ref)).sum()
    (of_estimator,) = torch.autograd.grad(sampled, logits, retain_graph=True)
    (of_divergence,) = torch.autograd.grad(exact, logits)
    return of_estimator, of_divergence


def test_k1_as_a_loss_has_zero_expected_gradient():
    of_estimator, of_divergence = expected_gradient("k1")
    torch.testing.assert_close(of_estimator, torch.zeros_like(of_estimator), atol=1e-12, rtol=0)
    assert of_divergence.abs().max() > 0.01


def test_k2_as_a_loss_has_the_gradient_of_the_reverse_divergence():
    torch.testing.assert_close(*expected_gradient("k2"))


def test_k3_is_exact_where_the_policies_nearly_agree():
    near = kl_estimate("k3", torch.tensor([1e-3]), torch.tensor([0.0]))
    assert float(near) == pytest.approx(0.5e-6, rel=1e-3)


@pytest.mark.parametrize("difference", [-500.0, 500.0])
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_far_apart_policies_stay_finite(estimator, difference):
    logprobs = torch.tensor([difference], requires_grad=True)
    value = kl_estimate(estimator, logprobs, torch.zeros(1))
    value.sum().backward()
    assert value.isfinite().all() and logprobs.grad.isfinite().all()


def test_the_adaptive_controller_follows_its_target():
    controller = AdaptiveKl(coef=0.1, target=6.0, horizon=1000)
    assert controller.after(12.0, 100).coef == pytest.approx(0.1 * (1 + 0.2 * 0.1))  # error clipped to 0.2
    assert controller.after(0.0, 100).coef == pytest.approx(0.1 * (1 - 0.2 * 0.1))
    assert controller.after(6.6, 100).coef == pytest.approx(0.1 * (1 + 0.1 * 0.1))
    assert controller.after(6.0, 100).coef == pytest.approx(0.1)


def test_the_fixed_controller_stays():
    assert FixedKl(coef=0.3).after(100.0, 10).coef == 0.3


def test_a_target_makes_the_controller_adaptive():
    assert kl_controller(resolve(AlgorithmConfig(name="ppo"))) == FixedKl(coef=0.02)
    adaptive = resolve(AlgorithmConfig(name="ppo", kl_target=0.1, kl_horizon=500))
    assert kl_controller(adaptive) == AdaptiveKl(coef=0.02, target=0.1, horizon=500)
