"""What optimising a proxy does to the gold score, by distance from the initial policy: the law of RL, fitted.

R(d) = d (alpha - beta log d), with d = sqrt(KL(policy || initial policy)) and R the gold score's gain over the
initial policy (Gao, Schulman and Hilton, arXiv:2210.10760, equation 2). Linear in alpha and beta, so that least squares
has one answer.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_LOOKS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """The two coefficients, each with its standard error by the scatter of the looks around the curve."""

    alpha: float
    beta: float
    alpha_error: float
    beta_error: float

    def gain(self, distance: float) -> float:
        """R(d); 0 at d = 0."""
        return distance * (self.alpha - self.beta * math.log(distance)) if distance > 0 else 0.0

    @property
    def peak(self) -> float | None:
        """The distance at which the gain is highest, exp(alpha / beta - 1); None where it has no highest one."""
        exponent = self.alpha / self.beta - 1 if self.beta > 0 else math.inf
        return math.exp(exponent) if exponent < 700 else None


def fit(distances: Sequence[float], gains: Sequence[float]) -> Fit | None:
    """Least squares over the looks with d > 0; None for fewer than three of them, or for all at one distance."""
    pairs = [(d, r) for d, r in zip(distances, gains, strict=True) if d > 0 and math.isfinite(d) and math.isfinite(r)]
    if len(pairs) < MIN_LOOKS:
        return None
    d, gain = np.array(pairs, dtype=np.float64).T
    features = np.stack([d, -d * np.log(d)], axis=1)
    solution, _, rank, _ = np.linalg.lstsq(features, gain, rcond=None)
    if rank < 2:
        return None
    alpha_error, beta_error = _errors(features, gain - features @ solution)
    return Fit(alpha=float(solution[0]), beta=float(solution[1]), alpha_error=alpha_error, beta_error=beta_error)


def _errors(features: NDArray[np.float64], residuals: NDArray[np.float64]) -> tuple[float, float]:
    variance = float(residuals @ residuals) / (len(residuals) - features.shape[1])
    first, second = np.sqrt(variance * np.diag(np.linalg.inv(features.T @ features)))
    return float(first), float(second)
