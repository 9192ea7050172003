"""One rank that trains one model for one objective: pre-training, imitation, comparison."""

import time

from algorithms.measures import Measures, merge
from algorithms.objective import LossOutput
from experience.records import Batch, MicroBatch, MiniBatch
from trainers.costs import BACKWARD_PASSES
from trainers.flops import pass_flops
from trainers.objective import Model, Objective
from trainers.parallel import ALONE, Layout
from trainers.passes import Blocks, LossOf, Packs, backward, mixed_in, own_micro_batches
from trainers.rank import summarise_steps
from trainers.usage import Usage, mean_of_updates, reduce_over_ranks, with_rates
from trainers.zero.engine import StepReport, ZeroEngine


class ObjectiveTrainer:
    """A model on its engine, its objective, and the model's frozen first state if that is compared with."""

    def __init__(
        self, engine: ZeroEngine, objective: Objective, reference: Model | None = None, layout: Layout = ALONE
    ) -> None:
        assert objective.needs_reference == (reference is not None)
        self.engine = engine
        self.engines = {"policy": engine}
        self.moving_reference = None
        self._objective = objective
        self._reference = reference
        self._layout = layout

    def update(self, batch: Batch, blocks: Blocks) -> dict[str, float]:
        """See RankTrainer."""
        started = time.monotonic()
        packs = Packs(blocks, self.engine.device, self._layout)
        measured: list[Measures] = []
        reports: list[StepReport] = []
        for number, mini_batch in enumerate(batch.updates):
            work = [(micro_batch, self._loss_of(mini_batch, packs)) for micro_batch in mini_batch.ranks[0]]
            measured.append(backward(self.engine, work + mixed_in(self.engine, batch, number, packs)))
            reports.append(self.engine.step())
        usage = Usage(seconds=time.monotonic() - started, mini_batches=batch.updates, flops=self._flops(batch, packs))
        measures = {**mean_of_updates(merge(measured), len(measured)), **usage.measures(self.engine.device)}
        metrics = reduce_over_ranks(measures, self._layout)
        return {
            **with_rates(metrics, self.engine.peak_flops),
            **summarise_steps(reports),
            **self._objective.derived(metrics),
        }

    def evaluate(self, batch: Batch, blocks: Blocks) -> dict[str, float]:
        """What the objective measures on held-out data, all ranks together; nothing is trained."""
        packs = Packs(blocks, self.engine.device, self._layout)
        with self.engine.inference():
            measured = [
                self._objective.measure(self.engine, packs[micro_batch], self._reference)
                for micro_batch in own_micro_batches(batch.mini_batches)
            ]
        metrics = reduce_over_ranks(merge(measured), self._layout)
        return {**metrics, **self._objective.derived(metrics)}

    def _flops(self, batch: Batch, packs: Packs) -> float:
        """Of this rank's passes on the batch."""
        own, mixed = own_micro_batches(batch.updates), own_micro_batches(batch.mixed)
        compared = 0 if self._reference is None else pass_flops(self.engine.module, own, packs)
        return compared + (1 + BACKWARD_PASSES) * pass_flops(self.engine.module, own + mixed, packs)

    def _loss_of(self, mini_batch: MiniBatch, packs: Packs) -> LossOf:
        def loss(micro_batch: MicroBatch) -> LossOutput:
            return self._objective.loss(self.engine, packs[micro_batch], mini_batch, self._reference)

        return loss
