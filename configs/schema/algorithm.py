"""Which algorithm improves the policy: a row of a table, and the columns a run overrides."""

from typing import Literal

from pydantic import Field

from configs.schema.base import Section

RatioLevel = Literal["token", "sequence"]
Aggregation = Literal["token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "seq_mean_token_sum_norm"]
KlEstimator = Literal["k1", "k2", "k3"]
KlPlace = Literal["reward", "loss"]
CorrectionName = Literal["none", "tis", "sequence_tis", "icepop", "mis", "sequence_mis", "geometric_mis"]


class AlgorithmConfig(Section):
    """A row of the table in algorithms/table.py, and the columns that this run overrides.

    A column that is left out keeps the row's value; limits that may be off are switched off by 0.
    """

    name: str = "grpo"
    """The row: ppo, grpo, dr_grpo, rloo, reinforce_pp, dapo, gspo, cispo ..., or `path/to/file.py:row`."""

    advantage: str | None = None
    """Advantage estimator: gae, grpo, dr_grpo, rloo, reinforce ..., or `path/to/file.py:function`."""
    whiten: bool | None = None
    """Shift and scale advantages to mean 0 and deviation 1 over the whole batch."""
    advantage_clip: float | None = Field(default=None, ge=0)
    """Advantages are clipped to plus or minus this, after whitening; 0: not clipped."""
    gamma: float | None = Field(default=None, gt=0, le=1)
    """Discount of later rewards (estimators with token rewards only)."""
    gae_lambda: float | None = Field(default=None, ge=0, le=1)
    """Decay of generalised advantage estimation (with a critic only)."""
    baseline_decay: float | None = Field(default=None, ge=0, lt=1)
    """Decay of the moving average of rewards that `reinforce` subtracts; 0: no baseline."""

    loss: str | None = None
    """Policy loss: clip, cispo, reinforce, or `path/to/file.py:function`."""
    ratio_level: RatioLevel | None = None
    """Whether the importance ratio is that of a token, or of its whole sequence (GSPO)."""
    clip_low: float | None = Field(default=None, ge=0)
    """Lower clip range: the ratio is clipped below 1 - clip_low."""
    clip_high: float | None = Field(default=None, ge=0)
    """Upper clip range: the ratio is clipped above 1 + clip_high."""
    dual_clip: float | None = Field(default=None, ge=0)
    """With a negative advantage the loss is at most this times its size; above 1, or 0: off."""
    aggregation: Aggregation | None = None
    """How token losses become one number."""
    entropy_coef: float | None = Field(default=None, ge=0)
    """Weight of the entropy bonus."""

    kl_coef: float | None = Field(default=None, ge=0)
    """Weight of the KL divergence from the reference policy; 0: no reference is loaded, unless a guard measures it."""
    kl_estimator: KlEstimator | None = None
    """Estimator of that divergence for one token."""
    kl_place: KlPlace | None = None
    """Whether the divergence is subtracted from token rewards, or added to the loss."""
    kl_target: float | None = Field(default=None, ge=0)
    """Steer kl_coef so that the divergence stays near this; 0: kl_coef is fixed."""
    kl_horizon: int | None = Field(default=None, ge=1)
    """Sequences over which the steering reacts."""
    reference_refresh_steps: int | None = Field(default=None, ge=0)
    """Copy the policy into the reference every so many steps; 0: never."""

    correction: CorrectionName | None = None
    """How the loss is weighted or masked for the difference between rollout engine and trainer."""
    correction_low: float | None = Field(default=None, ge=0)
    """Trainer-to-engine probability ratios below this are masked (masking corrections only)."""
    correction_high: float | None = Field(default=None, gt=0)
    """Trainer-to-engine probability ratios above this are cut down (tis) or masked."""

    dynamic_sampling: bool | None = None
    """Drop groups whose rewards are all equal, and sample further prompts in their place."""
    dynamic_sampling_limit: float | None = Field(default=None, ge=1)
    """Groups sampled for one step at most, as a multiple of rollout.prompts_per_step."""
    mask_truncated: bool | None = None
    """Leave responses that were cut by the length limit out of the loss (not out of the baseline)."""
    overlong_share: float | None = Field(default=None, ge=0, le=1)
    """Last share of max_response_tokens over which a length penalty grows from 0 to 1; 0: no penalty."""

    value_clip: float | None = Field(default=None, ge=0)
    """The critic's new values stay this near to its old ones in the value loss; 0: off."""
    critic_warmup_steps: int | None = Field(default=None, ge=0)
    """Steps that train the critic alone before the policy moves."""

    mini_batches: int = Field(default=1, ge=1)
    """Optimiser steps that one batch of rollouts is cut into."""
    epochs: int = Field(default=1, ge=1)
    """Passes over one batch of rollouts."""

    @property
    def updates_per_batch(self) -> int:
        """Optimiser steps on one batch of rollouts."""
        return self.mini_batches * self.epochs

    def overrides(self) -> dict[str, object]:
        """The columns that this run sets itself, by name."""
        settings = {"name", "mini_batches", "epochs"}
        return {key: value for key, value in self if key not in settings and value is not None}
