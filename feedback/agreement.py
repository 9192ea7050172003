"""How far labellers agree, and whether the side on which a response stands sways them."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import nan

from feedback.journal import Judgement
from metrics.intervals import wilson


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelling:
    """What is to be known of a set of judgements; NaN where there is nothing to measure it by.

    `agreement`: share of the pairs of judgements of one pair that are the same. `alpha`: Krippendorff's, 1: perfect, 0:
    as by chance. `left_share`: of the judgements that prefer a side, with its 95 % interval; 0.5: no bias.
    """

    num_judgements: int
    num_pairs: int
    choices: Mapping[str, int]
    by_labeller: Mapping[str, int]
    median_seconds: float
    agreement: float
    alpha: float
    left_share: float
    left_low: float
    left_high: float

    @property
    def is_biased(self) -> bool:
        """Whether the interval of `left_share` leaves out 0.5."""
        return self.left_low > 0.5 or self.left_high < 0.5


def labelling(judgements: Sequence[Judgement]) -> Labelling:
    """The summary of judgements of any pairs by any labellers."""
    verdicts: defaultdict[str, list[Hashable]] = defaultdict(list)
    for judgement in judgements:
        verdicts[judgement.pair].append(judgement.choice if judgement.preferred is None else judgement.preferred)
    sided = [judgement for judgement in judgements if judgement.preferred is not None]
    left = sum(judgement.choice == "left" for judgement in sided)
    low, high = wilson(left, len(sided)) if sided else (nan, nan)
    seconds = sorted(judgement.seconds for judgement in judgements)
    units = list(verdicts.values())
    return Labelling(
        num_judgements=len(judgements),
        num_pairs=len(units),
        choices=Counter(judgement.choice for judgement in judgements),
        by_labeller=Counter(judgement.labeller for judgement in judgements),
        median_seconds=seconds[len(seconds) // 2] if seconds else nan,
        agreement=percent_agreement(units),
        alpha=krippendorff_alpha(units),
        left_share=left / len(sided) if sided else nan,
        left_low=low,
        left_high=high,
    )


def percent_agreement(units: Sequence[Sequence[Hashable]]) -> float:
    """Share of equal ones among all pairs of values of one unit; NaN where no unit has two."""
    same = sum(count * (count - 1) for unit in units for count in Counter(unit).values())
    pairs = sum(len(unit) * (len(unit) - 1) for unit in units)
    return same / pairs if pairs else nan


def krippendorff_alpha(units: Sequence[Sequence[Hashable]]) -> float:
    """1 - observed / expected disagreement of nominal values (Krippendorff 2011, "Computing Krippendorff's
    Alpha-Reliability"). Each unit holds the values that its coders gave it; units with one are left out.

    NaN where no unit has two values, or all values are the same.
    """
    paired = [unit for unit in units if len(unit) > 1]
    totals = Counter(value for unit in paired for value in unit)
    num_values = totals.total()
    expected = num_values**2 - sum(count**2 for count in totals.values())
    if not expected:
        return nan
    observed = sum(
        (len(unit) ** 2 - sum(count**2 for count in Counter(unit).values())) / (len(unit) - 1) for unit in paired
    )
    return 1 - (num_values - 1) * observed / expected
