"""One rank that improves the policy: it scores a batch, makes advantages of it, and takes the updates."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from algorithms.algorithm import Algorithm
from algorithms.measures import Measures, merge
from algorithms.objective import LossOutput
from experience.columns import Place
from experience.records import Batch, MicroBatch, MiniBatch
from trainers.costs import BACKWARD_PASSES
from trainers.critic import Critic
from trainers.divergence import divergences
from trainers.flops import pass_flops
from trainers.lanes import Lanes, TokenCredit, sequence_credit, token_credit
from trainers.lora import UnadaptedModel
from trainers.objective import Model
from trainers.parallel import ALONE, Layout
from trainers.passes import Blocks, LossOf, Packs, Scores, backward, mixed_in, own_micro_batches, parted, score
from trainers.policy import Forward, PolicyObjective
from trainers.rank import summarise_steps
from trainers.usage import Spent, Usage, mean_of_updates, reduce_over_ranks, with_rates
from trainers.zero.engine import StepReport, ZeroEngine
from trainers.zero.frozen import FrozenModel

REFRESH_BUCKET_BYTES = 64 << 20

LanesOf = Callable[[Packs], Lanes]  # of a rank's micro-batches, which come as packs


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

    What its models say of a step's sequences, `score` finds, also part by part and long before the rest of the batch
    is there; it holds until the next update. Ranks of their own find theirs in the same way, and the critic's are sent
    the returns that `credit` gives.
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
        assert objective.algorithm.needs_critic or critic is None
        self.engine = engine
        self.critic = critic
        self._objective = objective
        self._reference = reference
        self._layout = layout
        self._scoring = Spent()

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

    def offload(self) -> None:
        """Leave the device's memory to others but for the weights, which can be published all the same."""
        for model in self._movable:
            model.offload()

    def reload(self) -> None:
        """Take up again what was offloaded; before anything but publishing."""
        for model in self._movable:
            model.reload()

    @property
    def _movable(self) -> list[ZeroEngine | FrozenModel]:
        return [*self.engines.values(), *([self._reference] if isinstance(self._reference, FrozenModel) else [])]

    def update(self, batch: Batch, blocks: Blocks) -> dict[str, float]:
        """See RankTrainer: every model is here. The critic takes a step of its own on each mini-batch."""
        lanes = self.score(
            batch, blocks, is_old_needed=self._objective.algorithm.needs_old_logprobs(len(batch.updates))
        )
        opened = self.open(batch, blocks, lambda _: lanes)
        return self.learn(opened, self.credit(opened))

    def score(self, batch: Batch, blocks: Blocks, *, is_old_needed: bool) -> Lanes:
        """What the models that are here say of this rank's micro-batches, as they are now."""
        packs = Packs(blocks, self.engine.device, self._layout)
        micro_batches = own_micro_batches(batch.mini_batches)

        def of(model: Model) -> Scores:
            return self._logprobs(model, micro_batches, packs)

        with self._scoring.on(self._scoring_flops(batch, packs, is_old_needed=is_old_needed)):
            old = None
            if is_old_needed:
                with self.engine.inference():
                    old = of(self.engine)
            return Lanes(
                old_logprobs=old,
                ref_logprobs=None if self._reference is None or not self._has_kl else of(self._reference),
                values=None if self.critic is None else self.critic.values(micro_batches, packs),
            )

    def divergences(self, batch: Batch, blocks: Blocks) -> dict[Place, float]:
        """Of this rank's sequences from the reference: see trainers/divergence.py."""
        assert self._reference is not None, "a run that measures this holds a reference"
        packs = Packs(blocks, self.engine.device, self._layout)
        return divergences(self._logprobs(self._reference, own_micro_batches(batch.mini_batches), packs), packs)

    def _logprobs(self, model: Model, micro_batches: Sequence[MicroBatch], packs: Packs) -> Scores:
        return score(lambda packed: model(packed, self._objective.temperature)[0], micro_batches, packs)

    @property
    def _has_kl(self) -> bool:
        """Else a reference that is here is asked for divergences alone."""
        return self._objective.algorithm.needs_reference

    def open(self, batch: Batch, blocks: Blocks, lanes: LanesOf) -> OpenBatch:
        """The batch on the device, with the lanes of its micro-batches."""
        started, packs = time.monotonic(), Packs(blocks, self.engine.device, self._layout)
        algorithm = _with_kl_coef(self._objective.algorithm, batch.kl_coef)
        return OpenBatch(started=started, batch=batch, algorithm=algorithm, packs=packs, lanes=lanes(packs))

    def credit(self, opened: OpenBatch) -> TokenCredit:
        """What each token is worth, once every lane that the algorithm needs is known."""
        algorithm, lanes = opened.algorithm, opened.lanes
        assert algorithm.needs_reference == (lanes.ref_logprobs is not None)
        assert algorithm.needs_critic == (lanes.values is not None)
        if algorithm.has_token_rewards:
            return token_credit(algorithm, opened.micro_batches, opened.packs, lanes)
        return sequence_credit(opened.micro_batches, opened.packs)

    def learn(self, opened: OpenBatch, credit: TokenCredit) -> dict[str, float]:
        """One optimiser step a mini-batch. Metrics of all ranks together."""
        batch = opened.batch
        measured: list[Measures] = []
        policy_steps: list[StepReport] = []
        critic_steps: list[StepReport] = []
        for number, mini_batch in enumerate(batch.updates):
            if batch.trains_policy:
                loss = self._loss_of(mini_batch, opened, credit)
                learned, still = parted(mini_batch)
                with self.engine.inference():
                    measured += [loss(micro_batch).metrics for micro_batch in still]
                work = [(micro_batch, loss) for micro_batch in learned]
                work += mixed_in(self.engine, batch, number, opened.packs)
                measured.append(backward(self.engine, work))
                policy_steps.append(self.engine.step())
            if self.critic is not None:
                measured.append(self.critic.backward(mini_batch, opened.packs, opened.lanes, credit))
                critic_steps.append(self.critic.engine.step())
        seconds, flops = self._scoring.take()
        usage = Usage(
            seconds=seconds + time.monotonic() - opened.started,
            mini_batches=batch.updates,
            flops=flops + self._flops(batch, opened.packs),
        )
        measures = {**mean_of_updates(merge(measured), len(batch.updates)), **usage.measures(self.engine.device)}
        metrics = with_rates(reduce_over_ranks(measures, self._layout), self.engine.peak_flops)
        if self.critic is not None:
            metrics = {**self.critic.finish(metrics), **summarise_steps(critic_steps, "critic")}
        return {**metrics, **(summarise_steps(policy_steps, "optimizer") if policy_steps else {})}

    def _scoring_flops(self, batch: Batch, packs: Packs, *, is_old_needed: bool) -> float:
        """Of this rank's passes that score the batch."""
        num_passes = is_old_needed + (self._reference is not None and self._has_kl)
        flops = num_passes * pass_flops(self.engine.module, own_micro_batches(batch.mini_batches), packs)
        return flops if self.critic is None else flops + self.critic.scoring_flops(batch, packs)

    def _flops(self, batch: Batch, packs: Packs) -> float:
        """Of this rank's updates on the batch."""
        flops = 0.0
        if batch.trains_policy:
            learned = [micro_batch for mini_batch in batch.updates for micro_batch in parted(mini_batch)[0]]
            learned += own_micro_batches(batch.mixed)
            still = [micro_batch for mini_batch in batch.updates for micro_batch in parted(mini_batch)[1]]
            flops += (1 + BACKWARD_PASSES) * pass_flops(self.engine.module, learned, packs)
            flops += pass_flops(self.engine.module, still, packs)
        return flops if self.critic is None else flops + self.critic.update_flops(batch, packs)

    def _loss_of(self, mini_batch: MiniBatch, opened: OpenBatch, credit: TokenCredit) -> LossOf:
        """The policy's loss of a micro-batch of `mini_batch`."""
        lanes = opened.lanes

        def loss(micro_batch: MicroBatch) -> LossOutput:
            packed = opened.packs[micro_batch]
            logprobs, entropies = self.engine(packed, self._objective.temperature)
            forward = Forward(
                packed=packed,
                logprobs=logprobs,
                entropies=entropies,
                advantages=credit.advantages[micro_batch],
                old_logprobs=None if lanes.old_logprobs is None else lanes.old_logprobs[micro_batch],
                ref_logprobs=None if lanes.ref_logprobs is None else lanes.ref_logprobs[micro_batch],
            )
            return self._objective.loss(opened.algorithm, forward, mini_batch)

        return loss


def _with_kl_coef(algorithm: Algorithm, coef: float | None) -> Algorithm:
    """The row as it stands in this step, while a controller steers its KL coefficient."""
    return algorithm if coef is None else replace(algorithm, kl_coef=coef)
