"""Divergence from the reference policy: estimators for one token, and controllers of its coefficient."""

from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from algorithms.algorithm import Algorithm
from algorithms.segments import MAX_LOG_RATIO
from configs.schema.algorithm import KlEstimator

_MAX_ERROR = 0.2


def kl_estimate(estimator: KlEstimator, logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """KL(policy || reference) at tokens that the policy sampled, with gradient. Schulman's note, 2020.

    With d = logprobs - ref_logprobs: k1 = d, k2 = d^2 / 2, k3 = exp(-d) + d - 1. As a loss on on-policy
    samples k1 has zero expected gradient; k2 has that of the reverse KL.
    """
    difference = logprobs - ref_logprobs
    match estimator:
        case "k1":
            return difference
        case "k2":
            return difference.square() / 2
        case "k3":
            bounded = difference.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
            # expm1 keeps the digits where the policies nearly agree.
            return (-bounded).expm1() + difference


class KlController(Protocol):
    """Chooses the KL coefficient of the next step."""

    @property
    def coef(self) -> float:
        """The coefficient now."""
        ...

    def after(self, measured_kl: float, num_sequences: int) -> "KlController":
        """The controller for the next step, given this step's mean KL of a token."""
        ...

    def tightened(self, factor: float) -> "KlController":
        """One that lets the policy less far away; `factor`: below 1."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedKl:
    """The same coefficient at every step."""

    coef: float

    def after(self, measured_kl: float, num_sequences: int) -> "FixedKl":
        """Itself."""
        return self

    def tightened(self, factor: float) -> "FixedKl":
        """With the coefficient divided by the factor."""
        return replace(self, coef=self.coef / factor)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveKl:
    """Raises the coefficient while the KL is above its target, lowers it below. Ziegler, arXiv:1909.08593."""

    coef: float
    target: float
    horizon: int

    def after(self, measured_kl: float, num_sequences: int) -> "AdaptiveKl":
        """coef * (1 + error * n / horizon), with the relative error clipped to 20 %."""
        error = min(max(measured_kl / self.target - 1, -_MAX_ERROR), _MAX_ERROR)
        return replace(self, coef=self.coef * (1 + error * num_sequences / self.horizon))

    def tightened(self, factor: float) -> "AdaptiveKl":
        """With the target multiplied by the factor; the coefficient follows by itself."""
        return replace(self, target=self.target * factor)


def kl_controller(algorithm: Algorithm) -> KlController:
    """The controller that the row asks for, at its first step.

    A step runs under `replace(algorithm, kl_coef=controller.coef)`.
    """
    if algorithm.kl_target > 0:
        return AdaptiveKl(coef=algorithm.kl_coef, target=algorithm.kl_target, horizon=algorithm.kl_horizon)
    return FixedKl(coef=algorithm.kl_coef)
