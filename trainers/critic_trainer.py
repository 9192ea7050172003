"""One rank of a critic that has ranks of its own: it values each batch, and then learns its returns."""

import time
from dataclasses import dataclass

from algorithms.measures import Measures, merge
from experience.columns import TokenColumn
from experience.records import Batch
from trainers.columns import scores_from
from trainers.critic import Critic
from trainers.lanes import Lanes, TokenCredit
from trainers.parallel import Layout
from trainers.passes import Blocks, Packs, Scores, own_micro_batches
from trainers.rank import summarise_steps
from trainers.usage import Usage, mean_of_updates, reduce_over_ranks, with_rates
from trainers.zero import StepReport


@dataclass(frozen=True, slots=True, kw_only=True)
class ValuedBatch:
    """A batch with what the critic said of it before its first update; `started` is time.monotonic's."""

    started: float
    batch: Batch
    packs: Packs
    values: Scores


class CriticTrainer:
    """The critic alone; see RankModels for what a checkpoint holds of it."""

    moving_reference = None

    def __init__(self, critic: Critic, layout: Layout) -> None:
        self._critic = critic
        self._layout = layout
        self.engines = {"critic": critic.engine}

    def score(self, batch: Batch, blocks: Blocks) -> ValuedBatch:
        """Its values of this rank's micro-batches."""
        started = time.monotonic()
        packs = Packs(blocks, self._critic.engine.device, self._layout)
        values = self._critic.values(own_micro_batches(batch.mini_batches), packs)
        return ValuedBatch(started=started, batch=batch, packs=packs, values=values)

    def learn(self, valued: ValuedBatch, returns: list[TokenColumn]) -> dict[str, float]:
        """One optimiser step a mini-batch towards the returns. Metrics of all the critic's ranks together."""
        batch, packs = valued.batch, valued.packs
        lanes = Lanes(values=valued.values)
        credit = TokenCredit(advantages={}, returns=scores_from(returns, own_micro_batches(batch.mini_batches), packs))
        measured: list[Measures] = []
        steps: list[StepReport] = []
        for mini_batch in batch.updates:
            measured.append(self._critic.backward(mini_batch, packs, lanes, credit))
            steps.append(self._critic.engine.step())
        engine = self._critic.engine
        usage = Usage(started=valued.started, mini_batches=batch.updates, flops=self._critic.flops(batch))
        measures = {**mean_of_updates(merge(measured), len(steps)), **usage.measures(engine.device)}
        metrics = with_rates(reduce_over_ranks(measures, self._layout), engine.peak_flops)
        return {**self._critic.finish(metrics), **summarise_steps(steps, "critic")}
