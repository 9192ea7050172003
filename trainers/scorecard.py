"""What responses to data sets say of a model: numbers with intervals, means over sets, and two models compared."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from metrics.best_of import best_of_k
from metrics.bootstrap import percentiles, resampled_means
from metrics.intervals import pass_at_k, wilson
from metrics.paired import mcnemar, win_rates
from metrics.votes import majority_at_k
from trainers.benchmark import Measured, Responses

# P prompts, N sampled responses to each, R resamples

GREEDY = "greedy accuracy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A data set's numbers before they are means: `columns` has [P] values of each, NaN where a prompt lacks it.

    `rewards`: of the greedy and of the sampled responses, [P, N] each, NaN where a verdict failed.
    """

    name: str
    columns: Mapping[str, NDArray[np.float64]]
    rewards: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def num_prompts(self) -> int:
        """P."""
        return len(self.columns[GREEDY])

    def means(self) -> dict[str, float]:
        """Of each number over the prompts that have it; NaN for none."""
        known = {name: values[~np.isnan(values)] for name, values in self.columns.items()}
        return {name: float(values.mean()) if len(values) else np.nan for name, values in known.items()}

    def resampled(self, seed: int) -> NDArray[np.float64]:
        """[R, numbers]: the means of resamples. A set's are the same whatever other sets there are."""
        values = np.stack(list(self.columns.values()), axis=1)
        return resampled_means(values, seed=zlib.crc32(f"{seed} {self.name}".encode()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two models on the same prompts. The counts are prompts that one alone answers right, greedily.

    `p_value`: McNemar's exact test of them. `differences`: the first model's number less the second's, for every
    number that both have, resampled in pairs. `win_rates`: how often the first model's response has the higher reward,
    ties half, greedy against greedy and each sample against each.
    """

    only_first: int
    only_second: int
    p_value: float
    differences: Mapping[str, Estimate]
    win_rates: Mapping[str, Estimate]


def card(measured: Measured) -> Card:
    """Every number that the responses allow."""
    greedy, sampled = measured.greedy, measured.sampled
    columns = {GREEDY: greedy.answers.is_right[:, 0].astype(np.float64)}
    if greedy.scores is not None:
        columns["greedy score"] = greedy.scores[:, 0]
    if measured.beam is not None:
        columns["beam accuracy"] = measured.beam.answers.is_right[:, 0].astype(np.float64)
        if measured.beam.scores is not None:
            columns["beam score"] = measured.beam.scores[:, 0]
    return Card(
        name=measured.name,
        columns=columns | ({} if sampled is None else _sampled_columns(sampled)),
        rewards={kind: part.answers.rewards for kind, part in measured.parts.items()},
    )


def numbers(card: Card, seed: int) -> dict[str, Estimate]:
    """A data set's numbers. Its greedy accuracy is a plain share, so the interval is Wilson's, never without width."""
    right = card.columns[GREEDY]
    low, high = wilson(int(right.sum()), len(right))
    return estimates([card], seed) | {GREEDY: Estimate(value=float(right.mean()), low=low, high=high)}


def estimates(cards: Sequence[Card], seed: int) -> dict[str, Estimate]:
    """The mean over data sets of each number that all have, whatever the sets' sizes.

    Intervals are percentiles of the bootstrap over prompts, each set resampled by itself.
    """
    shared = [name for name in cards[0].columns if all(name in card.columns for card in cards)]
    cards = [Card(name=card.name, columns={name: card.columns[name] for name in shared}) for card in cards]
    values = np.mean([list(card.means().values()) for card in cards], axis=0)
    low, high = percentiles(np.mean([card.resampled(seed) for card in cards], axis=0))
    return {
        name: Estimate(value=float(values[place]), low=float(low[place]), high=float(high[place]))
        for place, name in enumerate(shared)
    }


def compare(first: Sequence[Card], second: Sequence[Card], seed: int) -> Comparison:
    """Two models by their cards of the same data sets, in the same order."""
    pairs = list(zip(first, second, strict=True))
    right = [np.concatenate([card.columns[GREEDY] for card in cards]) == 1 for cards in (first, second)]
    only_first, only_second = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    return Comparison(
        only_first=only_first,
        only_second=only_second,
        p_value=mcnemar(only_first, only_second),
        differences=estimates([_difference(*pair) for pair in pairs], seed),
        win_rates=estimates([_wins(*pair) for pair in pairs], seed),
    )


def ks(num_samples: int) -> list[int]:
    """The k of pass@k and the like: powers of two up to the number of samples, and that number."""
    return sorted({*(2**power for power in range(num_samples.bit_length())), num_samples})


def _difference(one: Card, other: Card) -> Card:
    assert one.name == other.name, "cards of different data sets"
    shared = [name for name in one.columns if name in other.columns]
    return Card(name=one.name, columns={name: one.columns[name] - other.columns[name] for name in shared})


def _wins(one: Card, other: Card) -> Card:
    kinds = [kind for kind in one.rewards if kind in other.rewards]
    columns = {f"{kind} win rate": win_rates(one.rewards[kind], other.rewards[kind]) for kind in kinds}
    return Card(name=one.name, columns=columns)


def _sampled_columns(sampled: Responses) -> dict[str, NDArray[np.float64]]:
    is_right = sampled.answers.is_right  # [P, N]
    num_samples = is_right.shape[1]
    columns = {"sampled accuracy": is_right.mean(axis=1)}
    for k in ks(num_samples):
        columns[f"pass@{k}"] = np.array([pass_at_k(num_samples, int(row.sum()), k) for row in is_right])
    for k in ks(num_samples)[1:]:
        if sampled.classes is not None:
            votes = zip(sampled.classes, is_right.tolist(), strict=True)
            columns[f"maj@{k}"] = np.array([majority_at_k(classes, right, k) for classes, right in votes])
    if sampled.scores is None:
        return columns
    columns["sampled score"] = sampled.scores.mean(axis=1)
    for k in ks(num_samples)[1:]:
        columns[f"best-of-{k}"] = _best_of(sampled.scores, is_right, k)
        columns[f"best-of-{k} score"] = _best_of(sampled.scores, sampled.scores, k)
    return columns


def _best_of(scores: NDArray[np.float64], values: NDArray, k: int) -> NDArray[np.float64]:
    """[P], NaN for a prompt with a response that the reward model failed to score."""
    rows = zip(scores, values, strict=True)
    return np.array([np.nan if np.isnan(row).any() else best_of_k(row, worth, k) for row, worth in rows])
