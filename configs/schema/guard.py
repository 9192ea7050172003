"""The guard against over-optimisation: what is held against the rewards, how often, and what it does."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from configs.schema.base import Section
from configs.schema.rewards import RewardSpec, RewardSpecs

GuardAction = Literal["warn", "lower_kl", "stop", "roll_back"]


class GuardConfig(Section):
    """A gold score beside the rewards that are trained on (the proxy), on the same held-out prompts every so often."""

    gold: RewardSpecs = Field(min_length=1)
    """What counts in truth, by the language of `rewards`; none of it may be trained on."""
    every_steps: int = Field(default=10, ge=1)
    """Look every so many steps, and after the last; the first look is before training."""
    num_prompts: int = Field(default=128, ge=16)
    """Held-out prompts to look at, always the same (all, if there are fewer)."""
    samples_per_prompt: int = Field(default=1, ge=1)
    """Responses to each, at the training temperature."""
    patience: int = Field(default=2, ge=1)
    """Looks in a row with gold below the best look beyond noise, and the proxy not, before the action."""
    action: GuardAction = "warn"
    """What is done then: a warning, a lower KL target, the end of the run, or back to the best checkpoint."""
    measure_kl: bool = True
    """Measure the KL divergence from the reference, which is loaded for it where the algorithm has none."""
    kl_factor: float = Field(default=0.5, gt=0, lt=1)
    """lower_kl, roll_back: algorithm.kl_target is multiplied by this; where kl_coef is fixed, it is divided by this."""
    max_roll_backs: int = Field(default=1, ge=1)
    """roll_back: how often; the next time ends the run as `stop` does."""

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> "GuardConfig":
        of_action = {"kl_factor": ("lower_kl", "roll_back"), "max_roll_backs": ("roll_back",)}
        for key, actions in of_action.items():
            is_set = getattr(self, key) != type(self).model_fields[key].default  # a recipe written out has them all
            if is_set and self.action not in actions:
                raise ValueError(
                    f"{key} has no effect with action={self.action}; leave it out, or set action={actions[0]}"
                )
        return self


def check_gold(guard: GuardConfig, rewards: Sequence[RewardSpec]) -> None:
    """ValueError where the gold is also trained on: then it can't tell whether the training reward still holds."""
    trained = [spec for spec in rewards if _is_trained_on(spec, rewards)]
    for gold in guard.gold:
        for spec in trained:
            if (gold.use, gold.args, gold.task) == (spec.use, spec.args, spec.task):
                raise ValueError(
                    f"guard.gold: {gold.label!r} ({gold.use}) is also trained on, as reward {spec.label!r}: it can't "
                    "tell whether that is over-optimised; name another scorer, or set that reward's weight: 0"
                )


def _is_trained_on(spec: RewardSpec, rewards: Sequence[RewardSpec]) -> bool:
    """It is in the sum, gates another reward, decides who is asked, or has a veto."""
    is_named = any(spec.label in (other.times, other.instead_of) for other in rewards)
    return spec.weight != 0 or is_named or spec.veto_below is not None
