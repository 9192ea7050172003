"""One rank of a critic that has ranks of its own: it values each batch, and then learns its returns."""

import time
from collections.abc import Sequence

from algorithms.measures import Measures, merge
from experience.columns import TokenColumn
from experience.records import Batch
from trainers.columns import scores_from
from trainers.critic import Critic
from trainers.lanes import Lanes, TokenCredit
from trainers.parallel import Layout
from trainers.passes import Blocks, Packs, Scores, own_micro_batches
from trainers.rank import summarise_steps
from trainers.usage import Spent, Usage, mean_of_updates, reduce_over_ranks, with_rates
from trainers.zero.engine import StepReport


class CriticTrainer:
    """The critic alone; see RankModels for what a checkpoint holds of it."""

    moving_reference = None

    def __init__(self, critic: Critic, layout: Layout) -> None:
        self._critic = critic
        self._layout = layout
        self._scoring = Spent()
        self.engines = {"critic": critic.engine}

    def score(self, batch: Batch, blocks: Blocks) -> Scores:
        """Its values of this rank's micro-batches, as it is now."""
        packs = Packs(blocks, self._critic.engine.device, self._layout)
        with self._scoring.on(self._critic.scoring_flops(batch, packs)):
            return self._critic.values(own_micro_batches(batch.mini_batches), packs)

    def learn(
        self, batch: Batch, blocks: Blocks, values: Sequence[TokenColumn], returns: Sequence[TokenColumn]
    ) -> dict[str, float]:
        """One optimiser step a mini-batch towards the returns. Metrics of all the critic's ranks together.

        `values`: what it said of these sequences before.
        """
        started = time.monotonic()
        packs = Packs(blocks, self._critic.engine.device, self._layout)
        micro_batches = own_micro_batches(batch.mini_batches)
        lanes = Lanes(values=scores_from(values, micro_batches, packs))
        credit = TokenCredit(advantages={}, returns=scores_from(returns, micro_batches, packs))
        measured: list[Measures] = []
        steps: list[StepReport] = []
        for mini_batch in batch.updates:
            measured.append(self._critic.backward(mini_batch, packs, lanes, credit))
            steps.append(self._critic.engine.step())
        seconds, flops = self._scoring.take()
        usage = Usage(
            seconds=seconds + time.monotonic() - started,
            mini_batches=batch.updates,
            flops=flops + self._critic.update_flops(batch, packs),
        )
        engine = self._critic.engine
        measures = {**mean_of_updates(merge(measured), len(steps)), **usage.measures(engine.device)}
        metrics = with_rates(reduce_over_ranks(measures, self._layout), engine.peak_flops)
        return {**self._critic.finish(metrics), **summarise_steps(steps, "critic")}
