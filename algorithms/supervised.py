"""Next-token prediction: pre-training, imitation of responses, and the pre-training part of PPO-ptx."""

from torch import Tensor

from algorithms.measures import MetricMean
from algorithms.objective import LossOutput
from algorithms.segments import zero_outside


def next_token_loss(logprobs: Tensor, loss_mask: Tensor, num_loss_tokens: int, coef: float = 1.0) -> LossOutput:
    """This micro-batch's share of -coef * mean log p over the step's `num_loss_tokens` tokens in the mask.

    `logprobs` and `loss_mask`: [T]. PPO-ptx (arXiv:2203.02155) adds it to the policy's loss. The metric is
    the mean without the coefficient.
    """
    surprise = -zero_outside(logprobs, loss_mask)
    metric = MetricMean(total=surprise.detach().sum().double(), count=loss_mask.sum().double())
    return LossOutput(loss=coef * surprise.sum() / max(num_loss_tokens, 1), metrics={"supervised/loss": metric})
