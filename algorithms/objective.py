"""The policy's objective on one packed micro-batch."""

# N sequences, T packed tokens of one micro-batch; sequences are never cut over micro-batches

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from algorithms.aggregation import LossTotals, aggregate, token_weights
from algorithms.algorithm import Algorithm
from algorithms.correction import correction_weights, mismatch_metrics
from algorithms.kl import kl_estimate
from algorithms.losses import LossTerms, clip_range, find_loss, importance_ratio
from algorithms.measures import Measure, MetricSum, max_over, mean_over
from algorithms.segments import bounded_exp, zero_outside


@dataclass(frozen=True, slots=True, kw_only=True)
class LossInputs:
    """Token columns of a micro-batch, each [T]; outside `response_mask` they may hold anything.

    `logprobs` carries the gradient, `entropy` only where the row asks for it. `old_logprobs` is None
    when this batch gets a single update: the current log-probs are then the old ones.
    """

    logprobs: Tensor
    entropy: Tensor
    rollout_logprobs: Tensor
    advantages: Tensor
    response_mask: Tensor  # bool
    sequence_ids: Tensor  # int64, 0..N-1
    old_logprobs: Tensor | None = None
    ref_logprobs: Tensor | None = None

    def cleaned(self) -> Self:
        """The same in float32 or wider, 0 outside the mask, with the old log-probs filled in."""
        mask = self.response_mask
        logprobs = zero_outside(self.logprobs, mask)
        old, ref = self.old_logprobs, self.ref_logprobs
        return type(self)(
            logprobs=logprobs,
            entropy=zero_outside(self.entropy, mask),
            rollout_logprobs=zero_outside(self.rollout_logprobs, mask),
            advantages=zero_outside(self.advantages, mask).detach(),
            response_mask=mask,
            sequence_ids=self.sequence_ids,
            old_logprobs=(logprobs if old is None else zero_outside(old, mask)).detach(),
            ref_logprobs=None if ref is None else zero_outside(ref, mask).detach(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LossOutput:
    """A micro-batch's share of the step's loss, with gradient, and its metrics by name."""

    loss: Tensor
    metrics: dict[str, Measure]


def policy_loss(algorithm: Algorithm, inputs: LossInputs, totals: LossTotals) -> LossOutput:
    """The share of this micro-batch in the loss of the whole optimiser step.

    The plain sum of the shares over micro-batches and ranks is the step's exact loss. A micro-batch
    without a response token gives 0, attached to the graph. Non-finite log-probs inside the mask are
    not mended: the loss shows them.
    """
    clean = inputs.cleaned()
    assert clean.old_logprobs is not None, "cleaned() fills them in"
    mask, ids = clean.response_mask, clean.sequence_ids
    log_ratio = clean.logprobs - clean.old_logprobs
    terms = LossTerms(
        logprobs=clean.logprobs,
        ratio=importance_ratio(algorithm.ratio_level, log_ratio, clean.logprobs, mask, ids),
        advantages=clean.advantages,
        response_mask=mask,
        sequence_ids=ids,
    )
    log_weight = clean.old_logprobs - clean.rollout_logprobs
    factors = correction_weights(algorithm.rollout_correction, log_weight, mask, ids)
    weights = token_weights(algorithm.aggregation, mask, ids, totals)
    token_losses = torch.where(mask, find_loss(algorithm.loss)(terms, algorithm) * factors, 0)
    loss = aggregate(token_losses + _regularisers(algorithm, clean), weights)
    metrics = {
        "policy/loss": MetricSum(total=loss.detach()),
        **_policy_metrics(algorithm, clean, terms.ratio, log_ratio),
        **mismatch_metrics(log_weight, factors, mask),
    }
    return LossOutput(loss=loss, metrics=metrics)


def _regularisers(algorithm: Algorithm, clean: LossInputs) -> Tensor:
    """KL penalty minus entropy bonus of each token [T]."""
    penalty = torch.zeros_like(clean.logprobs)
    if algorithm.has_kl_in_loss:
        if clean.ref_logprobs is None:
            raise ValueError(f"algorithm {algorithm.name!r} has a KL term in its loss and needs ref_logprobs")
        divergence = kl_estimate(algorithm.kl_estimator, clean.logprobs, clean.ref_logprobs)
        penalty = penalty + algorithm.kl_coef * divergence
    if algorithm.needs_entropy_gradient:
        penalty = penalty - algorithm.entropy_coef * clean.entropy
    return penalty


def _policy_metrics(algorithm: Algorithm, clean: LossInputs, ratio: Tensor, log_ratio: Tensor) -> dict[str, Measure]:
    """What the policy did: entropy, ratios, and its divergence from the old and the reference policy.

    Clip fractions count tokens whose ratio is outside the clip range, whatever their advantage.
    """
    mask, ratio, log_ratio = clean.response_mask, ratio.detach(), log_ratio.detach()
    metrics: dict[str, Measure] = {
        "policy/entropy": mean_over(clean.entropy, mask),
        "policy/ratio_mean": mean_over(ratio, mask),
        "policy/ratio_max": max_over(ratio, mask),
        "policy/kl_old": mean_over(bounded_exp(log_ratio) - 1 - log_ratio, mask),
    }
    if algorithm.clip_low is not None and algorithm.clip_high is not None:
        low, high = clip_range(algorithm)
        metrics["policy/clip_fraction_low"] = mean_over((ratio < low).to(ratio.dtype), mask)
        metrics["policy/clip_fraction_high"] = mean_over((ratio > high).to(ratio.dtype), mask)
    if clean.ref_logprobs is not None:
        divergence = kl_estimate(algorithm.kl_estimator, clean.logprobs, clean.ref_logprobs)
        metrics["policy/kl_ref"] = mean_over(divergence, mask)
    return metrics
