"""How far two scorers agree on the same samples: a rule and a model, two rules, a rule and people's labels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Verdicts of a scorer against a reference. Right means a value of at least the threshold."""

    num_samples: int
    num_compared: int  # both gave a value
    both_right: int
    only_scorer: int
    only_reference: int
    both_wrong: int
    correlation: float  # Pearson; nan when one of them is constant
    disagreements: tuple[int, ...]  # rows where one is right and the other wrong

    @property
    def share(self) -> float:
        """The share of compared samples on which both say the same."""
        return (self.both_right + self.both_wrong) / max(self.num_compared, 1)

    @property
    def kappa(self) -> float:
        """Cohen's kappa: agreement beyond chance; nan when both always say the same one thing."""
        total = max(self.num_compared, 1)
        scorer = (self.both_right + self.only_scorer) / total
        reference = (self.both_right + self.only_reference) / total
        chance = scorer * reference + (1 - scorer) * (1 - reference)
        return (self.share - chance) / (1 - chance) if chance < 1 else math.nan


def compare(scorer: Sequence[float | None], reference: Sequence[float | None], threshold: float = 0.5) -> Agreement:
    """The agreement of two scorers' values, sample by sample; ValueError when there are not as many of each."""
    if len(scorer) != len(reference):
        raise ValueError(f"{len(scorer)} values against {len(reference)}: both must have judged the same samples")
    pairs = [
        (row, left, right)
        for row, (left, right) in enumerate(zip(scorer, reference, strict=True))
        if left is not None and right is not None
    ]
    verdicts = [(left >= threshold, right >= threshold) for _, left, right in pairs]
    return Agreement(
        num_samples=len(scorer),
        num_compared=len(pairs),
        both_right=verdicts.count((True, True)),
        only_scorer=verdicts.count((True, False)),
        only_reference=verdicts.count((False, True)),
        both_wrong=verdicts.count((False, False)),
        correlation=_correlation([left for _, left, _ in pairs], [right for _, _, right in pairs]),
        disagreements=tuple(row for (row, _, _), (a, b) in zip(pairs, verdicts, strict=True) if a != b),
    )


def _correlation(left: Sequence[float], right: Sequence[float]) -> float:
    if not left:
        return math.nan
    mean_left, mean_right = math.fsum(left) / len(left), math.fsum(right) / len(right)
    covariance = math.fsum((a - mean_left) * (b - mean_right) for a, b in zip(left, right, strict=True))
    spread = math.sqrt(math.fsum((a - mean_left) ** 2 for a in left) * math.fsum((b - mean_right) ** 2 for b in right))
    return covariance / spread if spread > 0 else math.nan
