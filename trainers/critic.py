"""The critic on one rank: a value model on a ZeRO engine of its own, trained on the returns of each batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from algorithms.measures import Measures
from algorithms.objective import LossOutput
from algorithms.values import ValueInputs, explained_variance, value_loss
from experience.records import Batch, MicroBatch, MiniBatch
from trainers.costs import BACKWARD_PASSES
from trainers.flops import pass_flops
from trainers.lanes import Lanes, TokenCredit
from trainers.passes import Packs, Scores, backward, own_micro_batches, score
from trainers.policy import PolicyObjective
from trainers.zero.engine import ZeroEngine

# Needed for the explained variance, and of no use once it is there.
_MOMENTS = ("raw/return_square_mean", "raw/residual_mean", "raw/residual_square_mean")


@dataclass(frozen=True, slots=True, kw_only=True)
class Critic:
    """Predicts from the tokens before each one what the rest of its response will be worth."""

    engine: ZeroEngine
    objective: PolicyObjective

    def values(self, micro_batches: Sequence[MicroBatch], packs: Packs) -> Scores:
        """Its predictions as they are now, [T] for each micro-batch."""
        with self.engine.inference():
            return score(self.engine, micro_batches, packs)

    def backward(self, mini_batch: MiniBatch, packs: Packs, lanes: Lanes, credit: TokenCredit) -> Measures:
        """The gradients of the value loss on one mini-batch."""

        def loss(micro_batch: MicroBatch) -> LossOutput:
            packed = packs[micro_batch]
            assert lanes.values is not None, "the critic has scored the batch"
            inputs = ValueInputs(
                values=self.engine(packed),
                returns=credit.returns[micro_batch],
                response_mask=packed.response_mask,
                sequence_ids=packed.sequence_ids,
                old_values=lanes.values[micro_batch],
            )
            return value_loss(self.objective.algorithm, inputs, self.objective.totals(mini_batch))

        return backward(self.engine, [(micro_batch, loss) for micro_batch in mini_batch.ranks[0]])

    def scoring_flops(self, batch: Batch, packs: Packs) -> float:
        """Of this rank's passes for the values of the batch."""
        return pass_flops(self.engine.module, own_micro_batches(batch.mini_batches), packs)

    def update_flops(self, batch: Batch, packs: Packs) -> float:
        """Of this rank's updates on the batch."""
        return (1 + BACKWARD_PASSES) * pass_flops(self.engine.module, own_micro_batches(batch.updates), packs)

    def finish(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The explained variance in place of the moments that it is made of; the rest as it is."""
        others = {name: value for name, value in metrics.items() if name not in _MOMENTS}
        return {**others, "value/explained_variance": explained_variance(metrics)}
