"""What a rank's work cost: tokens, sequences, seconds, memory - and everything measured, over all ranks."""

import contextlib
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist

from algorithms.measures import Measure, Measures, MetricMax, MetricSum, from_vectors, to_vectors
from experience.records import MiniBatch
from trainers.parallel import Layout

_TOKENS, _SEQUENCES, _FLOPS, _SECONDS = "raw/tokens", "raw/sequences", "raw/flops", "raw/seconds"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """The cost of one batch on one rank.

    `flops`: of all forward and backward passes that the batch needed, by the models' sizes and the lengths of
    the sequences: those of the updates, and the forward passes that score the batch before or beside them.
    What is recomputed to save memory, and passes over dummies, are no work. `seconds`: what all of it took.
    """

    seconds: float
    mini_batches: Sequence[MiniBatch]
    flops: float

    def measures(self, device: torch.device) -> Measures:
        """To be reduced with the other measures of the batch, and finished by `with_rates`."""

        def scalar(value: float) -> Tensor:
            return torch.tensor(value, dtype=torch.float64, device=device)

        items = [item for mini_batch in self.mini_batches for micro in mini_batch.ranks[0] for item in micro]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        return {
            _TOKENS: MetricSum(total=scalar(sum(item.num_tokens for item in items))),
            _SEQUENCES: MetricSum(total=scalar(len(items))),
            _FLOPS: MetricSum(total=scalar(self.flops)),
            _SECONDS: MetricMax(value=scalar(self.seconds)),
            "memory/host_peak": MetricMax(value=scalar(peak)),
        }


class Spent:
    """What the scores of a batch have cost, which are found before the batch is learned from."""

    def __init__(self) -> None:
        self._seconds = self._flops = 0.0

    @contextlib.contextmanager
    def on(self, flops: float) -> Iterator[None]:
        """The block's time, and the work that is done in it."""
        started = time.monotonic()
        yield
        self._seconds += time.monotonic() - started
        self._flops += flops

    def take(self) -> tuple[float, float]:
        """Seconds and FLOPs since the last call."""
        spent = self._seconds, self._flops
        self._seconds = self._flops = 0.0
        return spent


def with_rates(metrics: Mapping[str, float], peak_flops: float | None) -> dict[str, float]:
    """The raw counts of a batch, which the ranks shared, as rates.

    `peak_flops`: what a rank's device can do at best; None: unknown, and the share of it is left out.
    """
    counts = {name: metrics[name] for name in (_TOKENS, _SEQUENCES, _FLOPS, _SECONDS)}
    flops_per_rank = counts[_FLOPS] / counts[_SECONDS] / dist.get_world_size()
    return {
        **{name: value for name, value in metrics.items() if name not in counts},
        "throughput/tokens_per_second": counts[_TOKENS] / counts[_SECONDS],
        "throughput/sequences_per_second": counts[_SEQUENCES] / counts[_SECONDS],
        "throughput/tflops_per_rank": flops_per_rank / 1e12,
        **({} if peak_flops is None else {"throughput/mfu": flops_per_rank / peak_flops}),
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
