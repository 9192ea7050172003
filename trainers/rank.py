"""One rank of the learner: a model on a ZeRO engine, trained for an objective."""

import math
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist

from algorithms.measures import Measure, Measures, MetricMax, MetricSum, from_vectors, mean_over, merge, to_vectors
from experience.records import Item, MicroBatch, MiniBatch, TokenBlock
from trainers.objective import Forward, Objective
from trainers.packed import Packed, pack
from trainers.supervised import perplexity
from trainers.zero import FrozenModel, StepReport, ZeroEngine

# T packed tokens of one micro-batch

Blocks = Mapping[int, TokenBlock] | Sequence[TokenBlock]

_TOKENS, _SEQUENCES, _SECONDS = "raw/tokens", "raw/sequences", "raw/seconds"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lanes:
    """What was scored before the first update on a batch, by micro-batch; None: the objective needs none."""

    old: Mapping[MicroBatch, Tensor] | None
    reference: Mapping[MicroBatch, Tensor] | None


class RankTrainer:
    """The work of one rank. All ranks call the same methods in the same order, with equal numbers of passes."""

    def __init__(self, engine: ZeroEngine, objective: Objective, reference: FrozenModel | None = None) -> None:
        assert objective.needs_reference == (reference is not None)
        self.engine = engine
        self._objective = objective
        self._reference = reference

    def update(self, mini_batches: Sequence[MiniBatch], blocks: Blocks) -> dict[str, float]:
        """One optimiser step for each of `mini_batches` (this rank's part of them). Metrics of all ranks together."""
        started = time.monotonic()
        lanes = self._score_lanes(mini_batches, blocks)
        measured: list[Measures] = []
        reports: list[StepReport] = []
        for mini_batch in mini_batches:
            measured.append(self._backward(mini_batch, blocks, lanes))
            reports.append(self.engine.step())
        items = [item for batch in mini_batches for micro in batch.ranks[0] for item in micro]
        usage = self._measure_usage(items, time.monotonic() - started)
        metrics = self._reduce({**_mean_of_updates(merge(measured), len(mini_batches)), **usage})
        return {**_with_rates(metrics), **_summarise(reports), **self._objective.derived(metrics)}

    def evaluate(self, mini_batch: MiniBatch, blocks: Blocks) -> dict[str, float]:
        """Mean cross-entropy over the counted tokens of held-out data, all ranks together."""
        measured: list[Measures] = []
        with self.engine.inference():
            for micro in mini_batch.ranks[0]:
                packed = self._pack(micro, blocks)
                logprobs, _ = self.engine(packed, self._objective.temperature)
                measured.append({"eval/loss": mean_over(-logprobs, packed.response_mask)})
        metrics = self._reduce(merge(measured))
        return {**metrics, "eval/perplexity": perplexity(metrics["eval/loss"])}

    def _score_lanes(self, mini_batches: Sequence[MiniBatch], blocks: Blocks) -> _Lanes:
        """Old and reference log-probs; a micro-batch that comes in several epochs is scored once."""
        micro_batches = dict.fromkeys(micro for batch in mini_batches for micro in batch.ranks[0])
        old = reference = None
        if self._objective.needs_old_logprobs(len(mini_batches)):
            with self.engine.inference():
                old = {micro: self._score(micro, blocks)[0] for micro in micro_batches}
        if self._reference is not None:
            temperature = self._objective.temperature
            reference = {m: self._reference(self._pack(m, blocks), temperature)[0] for m in micro_batches}
        return _Lanes(old=old, reference=reference)

    def _backward(self, mini_batch: MiniBatch, blocks: Blocks, lanes: _Lanes) -> Measures:
        """The gradients of one optimiser step, and its measures."""
        measured: list[Measures] = []
        (micro_batches,) = mini_batch.ranks
        for index, micro in enumerate(micro_batches):
            packed = self._pack(micro, blocks)
            logprobs, entropies = self.engine(packed, self._objective.temperature)
            forward = Forward(
                packed=packed,
                logprobs=logprobs,
                entropies=entropies,
                old_logprobs=None if lanes.old is None else lanes.old[micro],
                ref_logprobs=None if lanes.reference is None else lanes.reference[micro],
            )
            output = self._objective.loss(forward, mini_batch)
            self.engine.backward(output.loss, is_last=index == len(micro_batches) - 1)
            measured.append(output.metrics)
        return merge(measured)

    def _score(self, micro: MicroBatch, blocks: Blocks) -> tuple[Tensor, Tensor]:
        return self.engine(self._pack(micro, blocks), self._objective.temperature)

    def _pack(self, micro: MicroBatch, blocks: Blocks) -> Packed:
        return pack(blocks, micro).to(self.engine.device)

    def _measure_usage(self, items: Sequence[Item], seconds: float) -> Measures:
        def scalar(value: float) -> Tensor:
            return torch.tensor(value, dtype=torch.float64, device=self.engine.device)

        num_tokens = sum(item.num_tokens for item in items)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        return {
            _TOKENS: MetricSum(total=scalar(num_tokens)),
            _SEQUENCES: MetricSum(total=scalar(len(items))),
            _SECONDS: MetricMax(value=scalar(seconds)),
            "memory/host_peak": MetricMax(value=scalar(peak)),
        }

    def _reduce(self, measures: Measures) -> dict[str, float]:
        """Final values over all ranks, which measured the same names."""
        sums, maxima = to_vectors(measures)
        dist.all_reduce(sums, op=dist.ReduceOp.SUM)
        dist.all_reduce(maxima, op=dist.ReduceOp.MAX)
        return from_vectors(measures, sums, maxima)


def _mean_of_updates(measures: Measures, num_updates: int) -> dict[str, Measure]:
    """Shares of a loss add up to one number an update; a batch's is their mean."""
    return {
        name: MetricSum(total=measure.total / num_updates) if isinstance(measure, MetricSum) else measure
        for name, measure in measures.items()
    }


def _with_rates(metrics: Mapping[str, float]) -> dict[str, float]:
    """The raw counts of a batch, which the ranks shared, as rates."""
    counts = {name: metrics[name] for name in (_TOKENS, _SEQUENCES, _SECONDS)}
    return {
        **{name: value for name, value in metrics.items() if name not in counts},
        "throughput/tokens_per_second": counts[_TOKENS] / counts[_SECONDS],
        "throughput/sequences_per_second": counts[_SEQUENCES] / counts[_SECONDS],
    }


def _summarise(reports: Sequence[StepReport]) -> dict[str, float]:
    """One batch's optimiser steps; the gradient norm is the mean of those that were taken."""
    taken = [report.grad_norm for report in reports if not report.skipped]
    return {
        "optimizer/grad_norm": sum(taken) / len(taken) if taken else math.nan,
        "optimizer/learning_rate": reports[-1].learning_rate,
        "optimizer/skipped_steps": float(len(reports) - len(taken)),
    }
