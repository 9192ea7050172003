"""One rank that improves the policy: it scores a batch, makes advantages of it, and takes the updates."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from algorithms.algorithm import Algorithm
from algorithms.measures import Measures, merge
from algorithms.objective import LossOutput
from experience.records import Batch, MicroBatch, MiniBatch
from trainers.critic import Critic
from trainers.flops import BACKWARD_PASSES, pass_flops
from trainers.lanes import Lanes, TokenCredit, sequence_credit, token_credit
from trainers.lora import UnadaptedModel
from trainers.objective import Model
from trainers.parallel import ALONE, Layout
from trainers.passes import Blocks, LossOf, Packs, Scores, backward, mixed_in, own_micro_batches, score
from trainers.policy import Forward, PolicyObjective
from trainers.rank import summarise_steps
from trainers.usage import Usage, mean_of_updates, reduce_over_ranks, with_rates
from trainers.zero import FrozenModel, StepReport, ZeroEngine

REFRESH_BUCKET_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """A batch with all that its updates share."""

    algorithm: Algorithm
    packs: Packs
    lanes: Lanes
    credit: TokenCredit


class PolicyTrainer:
    """The policy on its engine; the reference and the critic, where the algorithm needs them."""

    def __init__(
        self,
        engine: ZeroEngine,
        objective: PolicyObjective,
        *,
        reference: FrozenModel | UnadaptedModel | None = None,
        critic: Critic | None = None,
        layout: Layout = ALONE,
    ) -> None:
        assert objective.algorithm.needs_reference == (reference is not None)
        assert objective.algorithm.needs_critic == (critic is not None)
        self.engine = engine
        self.critic = critic
        self._objective = objective
        self._reference = reference
        self._layout = layout

    @property
    def engines(self) -> Mapping[str, ZeroEngine]:
        """See RankTrainer."""
        return {"policy": self.engine} | ({} if self.critic is None else {"critic": self.critic.engine})

    @property
    def moving_reference(self) -> FrozenModel | None:
        """See RankTrainer."""
        if isinstance(self._reference, FrozenModel) and self._objective.algorithm.reference_refresh_steps:
            return self._reference
        return None

    def refresh_reference(self) -> None:
        """Make the policy as it is now the reference."""
        assert isinstance(self._reference, FrozenModel), "an algorithm that refreshes its reference has one of its own"
        self._reference.load(self.engine.buckets(REFRESH_BUCKET_BYTES))

    def update(self, batch: Batch, blocks: Blocks) -> dict[str, float]:
        """See RankTrainer. The critic takes a step of its own on each mini-batch."""
        started = time.monotonic()
        prepared = self._prepare(batch, blocks)
        measured: list[Measures] = []
        policy_steps: list[StepReport] = []
        critic_steps: list[StepReport] = []
        for number, mini_batch in enumerate(batch.updates):
            if batch.trains_policy:
                work = [(micro, self._loss_of(mini_batch, prepared)) for micro in mini_batch.ranks[0]]
                work += mixed_in(self.engine, batch, number, prepared.packs)
                measured.append(backward(self.engine, work))
                policy_steps.append(self.engine.step())
            if self.critic is not None:
                measured.append(self.critic.backward(mini_batch, prepared.packs, prepared.lanes, prepared.credit))
                critic_steps.append(self.critic.engine.step())
        usage = Usage(started=started, mini_batches=batch.updates, flops=self._flops(batch, prepared.lanes))
        measures = {**mean_of_updates(merge(measured), len(batch.updates)), **usage.measures(self.engine.device)}
        metrics = with_rates(reduce_over_ranks(measures, self._layout), self.engine.peak_flops)
        if self.critic is not None:
            metrics = {**self.critic.finish(metrics), **summarise_steps(critic_steps, "critic")}
        return {**metrics, **(summarise_steps(policy_steps, "optimizer") if policy_steps else {})}

    def _prepare(self, batch: Batch, blocks: Blocks) -> _Prepared:
        """Everything that must be known before the first update."""
        algorithm = _with_kl_coef(self._objective.algorithm, batch.kl_coef)
        packs = Packs(blocks, self.engine.device, self._layout)
        micro_batches = own_micro_batches(batch.mini_batches)
        lanes = self._score(micro_batches, packs, num_updates=len(batch.updates))
        if algorithm.has_token_rewards:
            credit = token_credit(algorithm, micro_batches, packs, lanes)
        else:
            credit = sequence_credit(micro_batches, packs)
        return _Prepared(algorithm=algorithm, packs=packs, lanes=lanes, credit=credit)

    def _score(self, micro_batches: Sequence[MicroBatch], packs: Packs, num_updates: int) -> Lanes:
        temperature = self._objective.temperature

        def of(model: Model) -> Scores:
            return score(lambda packed: model(packed, temperature)[0], micro_batches, packs)

        old = None
        if self._objective.algorithm.needs_old_logprobs(num_updates):
            with self.engine.inference():
                old = of(self.engine)
        return Lanes(
            old_logprobs=old,
            ref_logprobs=None if self._reference is None else of(self._reference),
            values=None if self.critic is None else self.critic.values(micro_batches, packs),
        )

    def _flops(self, batch: Batch, lanes: Lanes) -> float:
        """Of this rank's passes on the batch."""
        num_scores = sum(scores is not None for scores in (lanes.old_logprobs, lanes.ref_logprobs))
        flops = num_scores * pass_flops(self.engine.module, batch.mini_batches)
        if batch.trains_policy:
            flops += (1 + BACKWARD_PASSES) * pass_flops(self.engine.module, batch.updates + batch.mixed)
        return flops if self.critic is None else flops + self.critic.flops(batch)

    def _loss_of(self, mini_batch: MiniBatch, prepared: _Prepared) -> LossOf:
        """The policy's loss of a micro-batch of `mini_batch`."""
        lanes = prepared.lanes

        def loss(micro_batch: MicroBatch) -> LossOutput:
            packed = prepared.packs[micro_batch]
            logprobs, entropies = self.engine(packed, self._objective.temperature)
            forward = Forward(
                packed=packed,
                logprobs=logprobs,
                entropies=entropies,
                advantages=prepared.credit.advantages[micro_batch],
                old_logprobs=None if lanes.old_logprobs is None else lanes.old_logprobs[micro_batch],
                ref_logprobs=None if lanes.ref_logprobs is None else lanes.ref_logprobs[micro_batch],
            )
            return self._objective.loss(prepared.algorithm, forward, mini_batch)

        return loss


def _with_kl_coef(algorithm: Algorithm, coef: float | None) -> Algorithm:
    """The row as it stands in this step, while a controller steers its KL coefficient."""
    return algorithm if coef is None else replace(algorithm, kl_coef=coef)
