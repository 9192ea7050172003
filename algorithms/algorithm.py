"""The record of one algorithm: its columns, and what they ask of a run. No torch."""

from dataclasses import dataclass
from typing import get_args

from algorithms.plugins import is_path
from algorithms.traits import (
    CORRECTIONS,
    ESTIMATORS,
    LOSSES,
    USER_ESTIMATOR,
    USER_LOSS,
    Correction,
    EstimatorTraits,
    LossTraits,
)
from configs.schema.algorithm import Aggregation, CorrectionName, KlEstimator, KlPlace, RatioLevel


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """A row: one choice in each column. Columns mean what configs/schema/algorithm.py says of them.

    Rows of users are checked like ours. ValueError names the column and what is valid.
    """

    name: str
    paper: str

    advantage: str
    whiten: bool = False
    advantage_clip: float = 0.0
    gamma: float = 1.0
    gae_lambda: float = 1.0
    baseline_decay: float = 0.0

    loss: str
    ratio_level: RatioLevel = "token"
    clip_low: float | None = None  # None: the loss does not clip
    clip_high: float | None = None
    dual_clip: float = 0.0
    aggregation: Aggregation
    entropy_coef: float = 0.0

    kl_coef: float = 0.0
    kl_estimator: KlEstimator = "k3"
    kl_place: KlPlace = "loss"
    kl_target: float = 0.0
    kl_horizon: int = 10_000
    reference_refresh_steps: int = 0

    correction: CorrectionName = "none"
    correction_low: float | None = None  # None: the correction's own bound
    correction_high: float | None = None

    dynamic_sampling: bool = False
    dynamic_sampling_limit: float = 4.0
    mask_truncated: bool = False
    overlong_share: float = 0.0

    value_clip: float = 0.0
    critic_warmup_steps: int = 0

    def __post_init__(self) -> None:
        _check_choice(self, "advantage", tuple(ESTIMATORS))
        _check_choice(self, "loss", tuple(LOSSES))
        _check_choice(self, "ratio_level", get_args(RatioLevel))
        _check_choice(self, "aggregation", get_args(Aggregation))
        _check_choice(self, "kl_estimator", get_args(KlEstimator))
        _check_choice(self, "kl_place", get_args(KlPlace))
        _check_choice(self, "correction", get_args(CorrectionName))
        _check_coherence(self)

    @property
    def estimator_traits(self) -> EstimatorTraits:
        """What the advantage estimator needs."""
        return ESTIMATORS.get(self.advantage, USER_ESTIMATOR)

    @property
    def loss_traits(self) -> LossTraits:
        """What the policy loss looks at."""
        return LOSSES.get(self.loss, USER_LOSS)

    @property
    def has_token_rewards(self) -> bool:
        """Advantages are computed token by token on the ranks; else one a sequence, on the driver."""
        traits = self.estimator_traits
        uneven = self.gamma < 1 or self.has_kl_in_reward
        return traits.has_token_rewards or (traits.may_have_token_rewards and uneven)

    @property
    def needs_critic(self) -> bool:
        """A value model is trained beside the policy."""
        return self.estimator_traits.needs_critic

    @property
    def needs_greedy(self) -> bool:
        """One greedy response a prompt is sampled as its baseline."""
        return self.estimator_traits.needs_greedy

    @property
    def needs_reference(self) -> bool:
        """Some term needs the frozen reference's log-probs."""
        return self.kl_coef > 0

    @property
    def has_kl_in_reward(self) -> bool:
        """Token rewards hold a KL term."""
        return self.needs_reference and self.kl_place == "reward"

    @property
    def has_kl_in_loss(self) -> bool:
        """The policy's loss holds a KL term."""
        return self.needs_reference and self.kl_place == "loss"

    @property
    def learns_from_zero(self) -> bool:
        """A token whose advantage is 0 may have a gradient all the same."""
        return self.loss not in LOSSES or self.has_kl_in_loss or self.needs_entropy_gradient

    @property
    def needs_entropy_gradient(self) -> bool:
        """The entropy is part of the loss rather than only reported."""
        return self.entropy_coef > 0

    @property
    def min_group_size(self) -> int:
        """Fewest samples of one prompt that this algorithm can learn from."""
        return 2 if self.estimator_traits.compares_group else 1

    @property
    def rollout_correction(self) -> Correction:
        """The correction with this row's bounds."""
        named = CORRECTIONS[self.correction]
        return Correction(
            weight=named.weight,
            mask=named.mask,
            low=named.low if self.correction_low is None else self.correction_low,
            high=named.high if self.correction_high is None else self.correction_high,
        )

    def needs_old_logprobs(self, updates_per_batch: int) -> bool:
        """Whether a forward pass of its own must precede the first update on a batch.

        With a single update the current log-probs are the old ones, unless rewards need them before.
        """
        return updates_per_batch > 1 or self.has_kl_in_reward


def _check_choice(row: Algorithm, column: str, choices: tuple[str, ...]) -> None:
    value = getattr(row, column)
    is_user_code = column in ("advantage", "loss") and is_path(value)
    if value not in choices and not is_user_code:
        raise ValueError(f"algorithm.{column}={value!r}: unknown; choose one of {', '.join(sorted(choices))}")


def _check_coherence(row: Algorithm) -> None:
    if row.loss in LOSSES and row.loss_traits.clips and None in (row.clip_low, row.clip_high):
        raise ValueError(f"algorithm.loss={row.loss!r} clips: set algorithm.clip_low and algorithm.clip_high")
    if row.dual_clip and row.dual_clip <= 1:
        raise ValueError(f"algorithm.dual_clip={row.dual_clip}: must be above 1 (3 is usual), or 0 to switch it off")
    traits = row.estimator_traits
    if row.has_kl_in_reward and not (traits.has_token_rewards or traits.may_have_token_rewards):
        raise ValueError(
            f"algorithm.kl_place='reward' needs token rewards, which advantage={row.advantage!r} has not; "
            "set kl_place: loss, or advantage: gae, reinforce or reinforce_pp"
        )
    bounds = row.rollout_correction
    if bounds.high and bounds.low >= bounds.high:
        raise ValueError(
            f"algorithm.correction_low={bounds.low} must be below correction_high={bounds.high} "
            f"(correction={row.correction!r})"
        )
