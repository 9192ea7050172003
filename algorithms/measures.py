"""Metrics in a form that reduces exactly over micro-batches and ranks: sums, means, statistics of sums, and maxima."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricMean:
    """A mean still to be taken: `total` over `count` (tokens, sequences or pairs), both scalars."""

    total: Tensor
    count: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSum:
    """A scalar that adds up, like the share of a loss."""

    total: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricMax:
    """A scalar whose largest value counts."""

    value: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricStatistic:
    """A number made of several sums at the end: `value(sums)`, NaN where they are of nothing."""

    sums: Tensor
    value: Callable[[Tensor], float]


Measure: TypeAlias = MetricMean | MetricSum | MetricMax | MetricStatistic
Measures: TypeAlias = Mapping[str, Measure]


def mean_over(values: Tensor, mask: Tensor) -> MetricMean:
    """The mean of `values` where `mask`; what lies elsewhere is never read."""
    kept = torch.where(mask, values.detach(), 0)
    return MetricMean(total=kept.sum(dtype=torch.float64), count=mask.sum(dtype=torch.float64))


def max_over(values: Tensor, mask: Tensor) -> MetricMax:
    """The largest of `values` (none negative) where `mask`; 0 where there is none."""
    kept = torch.where(mask, values.detach(), 0).double()
    return MetricMax(value=torch.cat([kept.new_zeros(1), kept]).amax())


def merge(parts: Iterable[Measures]) -> dict[str, Measure]:
    """The measures of several micro-batches as those of one; names may be missing from some."""
    merged: dict[str, Measure] = {}
    for part in parts:
        for name, measure in part.items():
            merged[name] = _add(merged[name], measure) if name in merged else measure
    return merged


def to_vectors(measures: Measures) -> tuple[Tensor, Tensor]:
    """All sums and counts, and all maxima: two float64 vectors to all-reduce with SUM and with MAX.

    Names are taken in sorted order, so ranks that measured the same names agree.
    """
    ordered = [measures[name] for name in sorted(measures)]
    sums = [part for measure in ordered for part in _sums(measure)]
    maxima = [measure.value for measure in ordered if isinstance(measure, MetricMax)]
    nothing = torch.zeros(0, dtype=torch.float64, device=(sums + maxima)[0].device if measures else None)
    return _stack(sums, nothing), _stack(maxima, nothing)


def from_vectors(measures: Measures, sums: Tensor, maxima: Tensor) -> dict[str, float]:
    """Final values from the reduced vectors of `measures`, by name; NaN for the mean of nothing."""
    summed, highest = iter(sums.tolist()), iter(maxima.tolist())
    values: dict[str, float] = {}
    for name in sorted(measures):
        match measures[name]:
            case MetricMax():
                values[name] = next(highest)
            case MetricSum():
                values[name] = next(summed)
            case MetricMean():
                total, count = next(summed), next(summed)
                values[name] = total / count if count else float("nan")
            case MetricStatistic(sums=own, value=value):
                parts = [next(summed) for _ in range(own.numel())]
                values[name] = value(torch.tensor(parts, dtype=torch.float64).view(own.shape))
    return values


def finish(measures: Measures) -> dict[str, float]:
    """Final values by name, where there is nothing left to reduce."""
    return from_vectors(measures, *to_vectors(measures))


def _sums(measure: Measure) -> tuple[Tensor, ...]:
    match measure:
        case MetricMean(total=total, count=count):
            return total, count
        case MetricSum(total=total):
            return (total,)
        case MetricStatistic(sums=sums):
            return tuple(sums.flatten())
        case MetricMax():
            return ()


def _add(left: Measure, right: Measure) -> Measure:
    match left, right:
        case MetricMean(), MetricMean():
            return MetricMean(total=left.total + right.total, count=left.count + right.count)
        case MetricSum(), MetricSum():
            return MetricSum(total=left.total + right.total)
        case MetricMax(), MetricMax():
            return MetricMax(value=torch.maximum(left.value, right.value))
        case MetricStatistic(), MetricStatistic():
            return replace(left, sums=left.sums + right.sums)
        case _:
            raise TypeError(f"one metric measured in two ways: {type(left).__name__}, {type(right).__name__}")


def _stack(scalars: Sequence[Tensor], nothing: Tensor) -> Tensor:
    return torch.stack([scalar.detach().double() for scalar in scalars]) if scalars else nothing
