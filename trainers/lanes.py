"""What is known of a batch's tokens before the first update on it, and what each of them is worth."""

# T packed tokens of one micro-batch

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from torch import Tensor
from torch import distributed as dist

from algorithms.advantages import clip_advantages
from algorithms.algorithm import Algorithm
from algorithms.returns import RewardInputs, token_advantages
from algorithms.whitening import moments, whiten
from experience.records import MicroBatch
from trainers.packed import Packed
from trainers.passes import Packs, Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Lanes:
    """Scores of every micro-batch, [T] each; None: the algorithm needs none.

    `old_logprobs` and `values` are those of the policy and the critic as the batch finds them.
    """

    old_logprobs: Scores | None = None
    ref_logprobs: Scores | None = None
    values: Scores | None = None

    @property
    def known(self) -> Mapping[str, Scores]:
        """Those that are there, by name."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: scores for name, scores in named.items() if scores is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCredit:
    """What each token is worth: its advantage, and the return that a critic learns; [T] for each micro-batch."""

    advantages: Scores
    returns: Scores


def sequence_credit(micro_batches: Sequence[MicroBatch], packs: Packs) -> TokenCredit:
    """Every token has the advantage that the driver gave its sequence; there is no critic."""
    return TokenCredit(advantages={micro: packs[micro].advantages for micro in micro_batches}, returns={})


def token_credit(algorithm: Algorithm, micro_batches: Sequence[MicroBatch], packs: Packs, lanes: Lanes) -> TokenCredit:
    """Advantages from token rewards, whitened over the tokens of all ranks and clipped, as the row says."""
    packed = {micro: packs[micro] for micro in micro_batches}
    found = {micro: token_advantages(algorithm, _reward_inputs(pack, micro, lanes)) for micro, pack in packed.items()}
    advantages = {micro: estimate.advantages for micro, estimate in found.items()}
    if algorithm.whiten:
        advantages = _whitened(advantages, packed)
    return TokenCredit(
        advantages={m: clip_advantages(values, algorithm.advantage_clip) for m, values in advantages.items()},
        returns={micro: estimate.returns for micro, estimate in found.items()},
    )


def _whitened(advantages: Scores, packed: dict[MicroBatch, Packed]) -> dict[MicroBatch, Tensor]:
    masks = {micro: pack.response_mask for micro, pack in packed.items()}
    summed = sum(moments(values, masks[micro]) for micro, values in advantages.items())
    assert isinstance(summed, Tensor), "every rank has a micro-batch, though it may be empty"
    dist.all_reduce(summed, op=dist.ReduceOp.SUM)
    return {micro: whiten(values, masks[micro], summed) for micro, values in advantages.items()}


def _reward_inputs(packed: Packed, micro_batch: MicroBatch, lanes: Lanes) -> RewardInputs:
    def of(scores: Scores | None) -> Tensor | None:
        return None if scores is None else scores[micro_batch]

    return RewardInputs(
        rewards=packed.rewards,
        response_mask=packed.response_mask,
        sequence_ids=packed.sequence_ids,
        old_logprobs=of(lanes.old_logprobs),
        ref_logprobs=of(lanes.ref_logprobs),
        values=of(lanes.values),
    )
