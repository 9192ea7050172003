"""What a rank's work cost: tokens, sequences, seconds, memory - and everything measured, over all ranks."""

import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist

from algorithms.measures import Measure, Measures, MetricMax, MetricSum, from_vectors, to_vectors
from experience.records import MiniBatch
from trainers.parallel import Layout

_TOKENS, _SEQUENCES, _SECONDS = "raw/tokens", "raw/sequences", "raw/seconds"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """The cost of one batch on one rank, from `started` (time.monotonic) on."""

    started: float
    mini_batches: Sequence[MiniBatch]

    def measures(self, device: torch.device) -> Measures:
        """To be reduced with the other measures of the batch, and finished by `with_rates`."""

        def scalar(value: float) -> Tensor:
            return torch.tensor(value, dtype=torch.float64, device=device)

        items = [item for mini_batch in self.mini_batches for micro in mini_batch.ranks[0] for item in micro]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        return {
            _TOKENS: MetricSum(total=scalar(sum(item.num_tokens for item in items))),
            _SEQUENCES: MetricSum(total=scalar(len(items))),
            _SECONDS: MetricMax(value=scalar(time.monotonic() - self.started)),
            "memory/host_peak": MetricMax(value=scalar(peak)),
        }


def with_rates(metrics: Mapping[str, float]) -> dict[str, float]:
    """The raw counts of a batch, which the ranks shared, as rates."""
    counts = {name: metrics[name] for name in (_TOKENS, _SEQUENCES, _SECONDS)}
    return {
        **{name: value for name, value in metrics.items() if name not in counts},
        "throughput/tokens_per_second": counts[_TOKENS] / counts[_SECONDS],
        "throughput/sequences_per_second": counts[_SEQUENCES] / counts[_SECONDS],
    }


def mean_of_updates(measures: Measures, num_updates: int) -> dict[str, Measure]:
    """Shares of a loss add up to one number an update; a batch's is their mean."""
    return {
        name: MetricSum(total=measure.total / num_updates) if isinstance(measure, MetricSum) else measure
        for name, measure in measures.items()
    }


def reduce_over_ranks(measures: Measures, layout: Layout) -> dict[str, float]:
    """Final values over all ranks, which measured the same names."""
    sums, maxima = to_vectors(measures)
    if layout.rank > 0:
        sums.zero_()  # ranks that share micro-batches measure the same things, which count once
    dist.all_reduce(sums, op=dist.ReduceOp.SUM)
    dist.all_reduce(maxima, op=dist.ReduceOp.MAX)
    return from_vectors(measures, sums, maxima)
