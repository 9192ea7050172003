from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from trainers import logprobs
from trainers.logprobs import LogProbHead, score_tokens

# P positions, D hidden size, V vocabulary


def score_slowly(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    all_logprobs = (hidden @ weight.T / temperature).log_softmax(-1)
    chosen = all_logprobs.gather(-1, targets[:, None]).squeeze(-1)
    return chosen, -(all_logprobs.exp() * all_logprobs).sum(-1)


def inputs(num: int = 7, vocab: int = 11, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(num, 5, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(vocab, 5, generator=generator).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(0, vocab, (num,), generator=generator)


@pytest.fixture(params=[2**22, 22, 1], ids=["one chunk", "chunks of two", "chunks of one"])
def chunked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(logprobs._CHUNK_LOGITS, "cpu", request.param)


@pytest.mark.usefixtures("chunked")
@pytest.mark.parametrize("temperature", [1.0, 0.3, 2.0])
@pytest.mark.parametrize(("logprob_weight", "entropy_weight"), [(1.0, 0.0), (0.0, 1.0), (1.0, 0.7)])
def test_values_and_gradients_equal_autograds(temperature: float, logprob_weight: float, entropy_weight: float) -> None:
    def evaluate(score: Callable[..., tuple[Tensor, Tensor]], dtype: torch.dtype) -> list[Tensor]:
        hidden, weight, targets = inputs(dtype=dtype)
        chosen, entropies = score(hidden, weight, targets, temperature)
        loss = (torch.linspace(-1, 2, len(targets)) * (logprob_weight * chosen + entropy_weight * entropies)).sum()
        return [chosen.detach(), entropies.detach(), *torch.autograd.grad(loss, (hidden, weight))]

    results = [evaluate(score_tokens, torch.float32), evaluate(score_slowly, torch.float32)]
    for ours, autograds, exact in zip(*results, evaluate(score_slowly, torch.float64), strict=True):
        rounding = float((autograds - exact).abs().max())  # what float32 costs in any case
        scale = max(1.0, float(exact.abs().max()))
        assert float((ours - exact).abs().max()) <= max(1e-6 * scale, 2 * rounding)


def test_gradients_pass_the_numerical_check_in_double_precision() -> None:
    hidden, weight, targets = inputs(dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda h, w: score_tokens(h, w, targets, 0.7), (hidden, weight))


def test_large_logits_stay_finite() -> None:
    hidden = torch.tensor([[300.0], [-300.0]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    chosen, entropies = score_tokens(hidden, weight, torch.tensor([0, 0]), 1.0)
    assert chosen.tolist() == [0.0, -600.0]
    assert entropies.tolist() == [0.0, 0.0]
    (chosen + entropies).sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.tolist() == [[0.0], [2.0]]


def test_bfloat16_scores_without_rounding_the_logits() -> None:
    hidden, weight, targets = inputs(dtype=torch.bfloat16)
    chosen, _ = score_tokens(hidden, weight, targets, 1.0)
    expected, _ = score_slowly(hidden.float(), weight.float(), targets, 1.0)
    assert chosen.dtype == torch.float32
    torch.testing.assert_close(chosen, expected, rtol=1e-6, atol=1e-6)
    chosen.sum().backward()
    assert hidden.grad is not None and weight.grad is not None
    assert hidden.grad.dtype == weight.grad.dtype == torch.bfloat16


def test_no_positions_give_zero_gradients_not_none() -> None:
    hidden, weight, targets = inputs(num=0)
    chosen, entropies = score_tokens(hidden, weight, targets, 1.0)
    (chosen.sum() + entropies.sum()).backward()
    assert weight.grad is not None
    assert not weight.grad.any()


class LargestTensor(TorchDispatchMode):
    """Remembers the elements of the largest tensor that any operation made."""

    num_elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for made in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(made, Tensor):
                self.num_elements = max(self.num_elements, made.numel())
        return result


def test_no_tensor_is_larger_than_a_chunk_of_logits_or_the_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(logprobs._CHUNK_LOGITS, "cpu", 400)
    hidden, weight, targets = inputs(num=64, vocab=100)
    with LargestTensor() as largest:
        chosen, entropies = score_tokens(hidden, weight, targets, 1.0)
        (chosen + entropies).sum().backward()
    assert largest.num_elements == weight.numel()


def test_a_frozen_weight_gets_no_gradient() -> None:
    hidden, weight, targets = inputs()
    score_tokens(hidden, weight.detach(), targets, 1.0)[0].sum().backward()
    assert hidden.grad is not None


def test_a_head_shares_the_weight_and_stays_linear_without_targets() -> None:
    linear = nn.Linear(5, 11, bias=False)
    head = LogProbHead(linear)
    hidden, _, targets = inputs()
    assert head.weight is linear.weight
    assert torch.equal(head(hidden), linear(hidden))
    torch.testing.assert_close(head(hidden, targets, 0.5), score_slowly(hidden, linear.weight, targets, 0.5))


def test_a_head_with_a_bias_is_refused() -> None:
    with pytest.raises(ValueError, match="has a bias"):
        LogProbHead(nn.Linear(5, 11))
