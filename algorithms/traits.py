"""What each estimator, loss and correction needs of the rest of a run. No torch: read before anything starts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from configs.schema.algorithm import CorrectionName

Level = Literal["none", "token", "sequence", "geometric"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimatorTraits:
    """Where an advantage estimator runs, and on what.

    `has_token_rewards`: works on token rewards, hence on the ranks. `may_have_token_rewards`: does so
    only when a discount or a KL term makes rewards differ from token to token.
    """

    has_token_rewards: bool = False
    may_have_token_rewards: bool = False
    needs_critic: bool = False
    needs_greedy: bool = False
    compares_group: bool = False
    has_moving_baseline: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LossTraits:
    """Which columns of a row a policy loss looks at."""

    clips: bool = False
    has_dual_clip: bool = False
    uses_ratio: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """How the trainer-to-engine probability ratio w of a token or sequence enters the loss.

    `weight`: the loss is multiplied by w, cut at `high`. `mask`: where w is outside [low, high], the
    loss is zeroed.
    """

    weight: Level = "none"
    mask: Level = "none"
    low: float = 0.0
    high: float = 0.0


ESTIMATORS: Mapping[str, EstimatorTraits] = {
    "gae": EstimatorTraits(has_token_rewards=True, needs_critic=True),
    "grpo": EstimatorTraits(compares_group=True),
    "dr_grpo": EstimatorTraits(compares_group=True),
    "rloo": EstimatorTraits(compares_group=True),
    "reinforce": EstimatorTraits(may_have_token_rewards=True, has_moving_baseline=True),
    "reinforce_pp": EstimatorTraits(has_token_rewards=True),
    "reinforce_pp_baseline": EstimatorTraits(compares_group=True),
    "remax": EstimatorTraits(needs_greedy=True),
}
# A user's estimator gets scalar rewards and group numbers, like most of ours.
USER_ESTIMATOR = EstimatorTraits()

LOSSES: Mapping[str, LossTraits] = {
    "clip": LossTraits(clips=True, has_dual_clip=True, uses_ratio=True),
    "cispo": LossTraits(clips=True, uses_ratio=True),
    "reinforce": LossTraits(),
}
# A user's loss may look at every column.
USER_LOSS = LossTraits(clips=True, has_dual_clip=True, uses_ratio=True)

CORRECTIONS: Mapping[CorrectionName, Correction] = {
    "none": Correction(),
    "tis": Correction(weight="token", high=2.0),
    "sequence_tis": Correction(weight="sequence", high=2.0),
    "icepop": Correction(weight="token", mask="token", low=0.5, high=5.0),
    "mis": Correction(weight="token", mask="token", high=2.0),
    "sequence_mis": Correction(weight="sequence", mask="sequence", high=2.0),
    # The geometric mean of a long sequence is close to 1 by nature: a narrow band, and no weight.
    "geometric_mis": Correction(mask="geometric", low=0.99, high=1.01),
}
