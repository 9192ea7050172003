"""Which algorithm improves the policy: a row of a table, and the columns a run overrides."""

from typing import Literal

from pydantic import Field

from configs.schema.base import Section


class AlgorithmConfig(Section):
    """A row of the table in algorithms/table.py, and the columns that this run overrides."""

    name: str = "grpo"
    """The row: ppo, grpo, dr_grpo, rloo, reinforce_pp, dapo, gspo, cispo ... (`wutong config --algorithms`)."""
    advantage: str | None = None
    """Advantage estimator."""
    loss: str | None = None
    """Policy loss."""
    clip_low: float | None = Field(default=None, ge=0)
    """Lower clip range: the ratio is clipped below 1 - clip_low."""
    clip_high: float | None = Field(default=None, ge=0)
    """Upper clip range: the ratio is clipped above 1 + clip_high."""
    aggregation: Literal["token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "seq_mean_token_sum_norm"] | None = None
    """How token losses become one number."""
    kl_coef: float | None = Field(default=None, ge=0)
    """Weight of the KL divergence from the reference policy; 0: no reference is loaded."""
    entropy_coef: float | None = Field(default=None, ge=0)
    """Weight of the entropy bonus."""
    mini_batches: int = Field(default=1, ge=1)
    """Optimiser steps that one batch of rollouts is cut into."""
    epochs: int = Field(default=1, ge=1)
    """Passes over one batch of rollouts."""
