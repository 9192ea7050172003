"""One rank that improves the policy: it scores a batch, makes advantages of it, and takes the updates."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from algorithms.algorithm import Algorithm
from algorithms.measures import Measures, merge
from algorithms.objective import LossOutput
from experience.records import Batch, MicroBatch, MiniBatch
from trainers.costs import BACKWARD_PASSES
from trainers.critic import Critic
from trainers.flops import pass_flops
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
class OpenBatch:
    """A batch that is being learned from, with all that its updates share; `started` is time.monotonic's."""

    started: float
    batch: Batch
    algorithm: Algorithm
    packs: Packs
    lanes: Lanes

    @property
    def micro_batches(self) -> list[MicroBatch]:
        """This rank's."""
        return own_micro_batches(self.batch.mini_batches)


class PolicyTrainer:
    """The policy on its engine, with the reference and the critic, unless these have ranks of their own.

    Such ranks send their lanes between `score` and `credit`, and the critic's are sent the returns.
    """

    def __init__(
        self,
        engine: ZeroEngine,
        objective: PolicyObjective,
        *,
        reference: FrozenModel | UnadaptedModel | None = None,
        critic: Critic | None = None,
        layout: Layout = ALONE,
    ) -> None:
        assert objective.algorithm.needs_reference or reference is None
        assert objective.algorithm.needs_critic or critic is None
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
        scored = self.score(batch, blocks)
        return self.learn(scored, self.credit(scored))

    def score(self, batch: Batch, blocks: Blocks) -> OpenBatch:
        """What the models that are here say of the batch as it finds them."""
        started = time.monotonic()
        packs = Packs(blocks, self.engine.device, self._layout)
        lanes = self._score(own_micro_batches(batch.mini_batches), packs, num_updates=len(batch.updates))
        algorithm = _with_kl_coef(self._objective.algorithm, batch.kl_coef)
        return OpenBatch(started=started, batch=batch, algorithm=algorithm, packs=packs, lanes=lanes)

    def credit(self, scored: OpenBatch) -> TokenCredit:
        """What each token is worth, once every lane that the algorithm needs is known."""
        algorithm, lanes = scored.algorithm, scored.lanes
        assert algorithm.needs_reference == (lanes.ref_logprobs is not None)
        assert algorithm.needs_critic == (lanes.values is not None)
        if algorithm.has_token_rewards:
            return token_credit(algorithm, scored.micro_batches, scored.packs, lanes)
        return sequence_credit(scored.micro_batches, scored.packs)

    def learn(self, scored: OpenBatch, credit: TokenCredit) -> dict[str, float]:
        """One optimiser step a mini-batch. Metrics of all ranks together."""
        batch = scored.batch
        measured: list[Measures] = []
        policy_steps: list[StepReport] = []
        critic_steps: list[StepReport] = []
        for number, mini_batch in enumerate(batch.updates):
            if batch.trains_policy:
                work = [(micro, self._loss_of(mini_batch, scored, credit)) for micro in mini_batch.ranks[0]]
                work += mixed_in(self.engine, batch, number, scored.packs)
                measured.append(backward(self.engine, work))
                policy_steps.append(self.engine.step())
            if self.critic is not None:
                measured.append(self.critic.backward(mini_batch, scored.packs, scored.lanes, credit))
                critic_steps.append(self.critic.engine.step())
        usage = Usage(started=scored.started, mini_batches=batch.updates, flops=self._flops(batch, scored.lanes))
        measures = {**mean_of_updates(merge(measured), len(batch.updates)), **usage.measures(self.engine.device)}
        metrics = with_rates(reduce_over_ranks(measures, self._layout), self.engine.peak_flops)
        if self.critic is not None:
            metrics = {**self.critic.finish(metrics), **summarise_steps(critic_steps, "critic")}
        return {**metrics, **(summarise_steps(policy_steps, "optimizer") if policy_steps else {})}

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
        num_scores = (lanes.old_logprobs is not None) + (self._reference is not None)
        flops = num_scores * pass_flops(self.engine.module, batch.mini_batches)
        if batch.trains_policy:
            flops += (1 + BACKWARD_PASSES) * pass_flops(self.engine.module, batch.updates + batch.mixed)
        return flops if self.critic is None else flops + self.critic.flops(batch)

    def _loss_of(self, mini_batch: MiniBatch, scored: OpenBatch, credit: TokenCredit) -> LossOf:
        """The policy's loss of a micro-batch of `mini_batch`."""
        lanes = scored.lanes

        def loss(micro_batch: MicroBatch) -> LossOutput:
            packed = scored.packs[micro_batch]
            logprobs, entropies = self.engine(packed, self._objective.temperature)
            forward = Forward(
                packed=packed,
                logprobs=logprobs,
                entropies=entropies,
                advantages=credit.advantages[micro_batch],
                old_logprobs=None if lanes.old_logprobs is None else lanes.old_logprobs[micro_batch],
                ref_logprobs=None if lanes.ref_logprobs is None else lanes.ref_logprobs[micro_batch],
            )
            return self._objective.loss(scored.algorithm, forward, mini_batch)

        return loss


def _with_kl_coef(algorithm: Algorithm, coef: float | None) -> Algorithm:
    """The row as it stands in this step, while a controller steers its KL coefficient."""
    return algorithm if coef is None else replace(algorithm, kl_coef=coef)
