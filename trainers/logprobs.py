"""Log-probs and entropies straight from hidden states, never with the logits of a whole batch at once."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# P positions to score, C of them in a chunk, D hidden size, V vocabulary

# Logits of one chunk: 16 MiB on a CPU, near its caches; 256 MiB on a GPU, where fewer launches count.
_CHUNK_LOGITS = {"cpu": 2**22, "cuda": 2**26}


class LogProbHead(nn.Linear):
    """An output head that can score tokens; `forward(hidden)` alone stays the linear it replaces.

    It shares the linear's weight, so tied embeddings stay tied. Scoring is part of `forward` since an engine
    that partitions weights gathers them there.
    """

    def __init__(self, linear: nn.Linear) -> None:
        if linear.bias is not None:
            raise ValueError("the model's output head has a bias, which can't be scored; use a model without one")
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        self.weight = linear.weight

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  a Tensor wherever Linear gives one
        self, input: Tensor, targets: Tensor | None = None, temperature: float = 1.0
    ) -> Tensor | tuple[Tensor, Tensor]:
        """With `targets`: what `score_tokens` returns for the hidden states `input`; without: their logits."""
        if targets is None:
            return super().forward(input)
        return score_tokens(input, self.weight, targets, temperature)


def score_tokens(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probs of the targets, and entropies of the distributions softmax(hidden @ weight.T / temperature).

    `hidden`: [P, D]; `weight`: [V, D]; `targets`: [P] int64. Returns two [P] tensors in float32 or wider;
    both carry exact gradients, and the entropy's costs nothing unless it is used.
    """
    return _ScoreTokens.apply(hidden, weight, targets, temperature)  # type: ignore[return-value]


class _ScoreTokens(torch.autograd.Function):
    """Keeps a few numbers a position; the backward pass makes each chunk's logits again."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        wide = _widened(weight)
        logprobs, entropies, peaks, log_sums = hidden.new_empty(4, len(hidden), dtype=_sum_dtype(weight))
        for rows in _chunks(hidden, weight):
            logits = _matmul(hidden[rows].to(wide.dtype), wide.T).div_(temperature)
            peaks[rows] = logits.amax(-1)
            logits.sub_(peaks[rows, None])
            weights = logits.exp()
            sums = weights.sum(-1)
            log_sums[rows] = sums.log()
            logprobs[rows] = logits.gather(-1, targets[rows, None]).squeeze(-1) - log_sums[rows]
            entropies[rows] = log_sums[rows] - torch.linalg.vecdot(weights, logits) / sums
        ctx.save_for_backward(hidden, weight, targets, peaks, log_sums, entropies)
        ctx.temperature = temperature
        ctx.set_materialize_grads(False)
        return logprobs, entropies

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, grad_logprobs: Tensor | None, grad_entropies: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, None, None]:
        if grad_logprobs is None and grad_entropies is None:
            return None, None, None, None
        hidden, weight, targets, peaks, log_sums, entropies = ctx.saved_tensors
        wide = _widened(weight)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=log_sums.dtype) if ctx.needs_input_grad[1] else None
        for rows in _chunks(hidden, weight):
            states = hidden[rows].to(wide.dtype)
            logits = _matmul(states, wide.T).div_(ctx.temperature)
            grads = _grad_logits(
                logits.sub_(peaks[rows, None]).sub_(log_sums[rows, None]),  # in one step, digits would be lost
                targets[rows],
                entropies[rows],
                None if grad_logprobs is None else grad_logprobs[rows],
                None if grad_entropies is None else grad_entropies[rows],
            ).div_(ctx.temperature)
            grads = grads.to(wide.dtype)
            grad_hidden[rows] = _matmul(grads, wide).to(hidden.dtype)
            if grad_weight is not None:
                _add_matmul(grad_weight, grads.T, states)
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), None, None


def _grad_logits(
    logprobs: Tensor,
    targets: Tensor,
    entropies: Tensor,
    grad_logprobs: Tensor | None,
    grad_entropies: Tensor | None,
) -> Tensor:
    """Gradient of the loss by the logits, [C, V]; overwrites `logprobs` [C, V], those of all tokens.

    With probabilities p and entropy H: d log p_y / d l_v = [v = y] - p_v, and dH / d l_v = -p_v (log p_v + H).
    """
    if grad_entropies is None:
        assert grad_logprobs is not None
        grads = logprobs.exp_().mul_(-grad_logprobs[:, None])
    else:
        probabilities = logprobs.exp()
        grads = logprobs.add_(entropies[:, None]).mul_(-grad_entropies[:, None])
        if grad_logprobs is not None:
            grads.sub_(grad_logprobs[:, None])
        grads.mul_(probabilities)
    if grad_logprobs is not None:
        grads.scatter_add_(1, targets[:, None], grad_logprobs[:, None])
    return grads


def _chunks(hidden: Tensor, weight: Tensor) -> Iterator[slice]:
    size = max(1, _CHUNK_LOGITS.get(hidden.device.type, _CHUNK_LOGITS["cuda"]) // len(weight))
    return (slice(start, start + size) for start in range(0, len(hidden), size))


def _sum_dtype(weight: Tensor) -> torch.dtype:
    return torch.promote_types(weight.dtype, torch.float32)


def _widened(weight: Tensor) -> Tensor:
    """The weight as `_matmul` takes it: CPUs have no product of bfloat16 matrices that stays in float32."""
    return weight if weight.is_cuda else weight.to(_sum_dtype(weight))


def _matmul(left: Tensor, right: Tensor) -> Tensor:
    """The product in float32 or wider: rounding logits to bfloat16 would move log-probs by 0.1."""
    if left.dtype == torch.bfloat16:
        return torch.mm(left, right, out_dtype=torch.float32)
    return left @ right


def _add_matmul(total: Tensor, left: Tensor, right: Tensor) -> None:
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total.add_(_matmul(left, right))
