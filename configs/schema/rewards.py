"""Which rewards score a response, and the limits of the processes that run them."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from configs.schema.base import Section
from configs.schema.model import Dtype
from configs.schema.placement import PlacementConfig

_MODEL = "model:"


class RewardSpec(Section):
    """One reward of a run."""

    use: str
    """A built-in reward (`wutong reward list`), `path/to/file.py:function`, or `model:PATH` (a reward model)."""
    weight: float = Field(default=1.0, allow_inf_nan=False)
    """Factor in the sum of rewards."""
    args: dict[str, object] = Field(default_factory=dict)
    """Keyword arguments for the reward."""
    name: str | None = None
    """Its name in metrics and in other rewards' keys; none: the built-in's, the function's, or `model`."""
    task: str | None = None
    """Score only the rows whose `task` column holds this; none: every row."""
    times: str | None = None
    """Multiply by the value of the reward of this name: a format reward then counts only where the answer is right."""
    instead_of: str | None = None
    """Ask this reward only where the reward of this name abstains: a rule first, a model for the rest."""
    mean: float = Field(default=0.0, allow_inf_nan=False)
    """Subtracted from the value before anything else."""
    std: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """The value less its mean is divided by this."""
    clip: tuple[float, float] | None = None
    """Bounds of the value, after mean and std."""
    veto_below: float | None = Field(default=None, allow_inf_nan=False)
    """Where this reward's own value is lower, the sample's whole reward is `veto_reward`."""
    veto_reward: float = Field(default=0.0, allow_inf_nan=False)
    """The reward of a vetoed sample."""
    timeout_seconds: float | None = Field(default=None, gt=0)
    """Wall-clock limit of one call; none: the built-in's own, else reward_pool.timeout_seconds."""

    @property
    def label(self) -> str:
        """The name under which this reward is logged."""
        return self.name or ("model" if self.model_path is not None else self.use.rpartition(":")[2])

    @property
    def model_path(self) -> str | None:
        """The reward model's folder, or its name on the hub; None: this reward is no model."""
        return self.use.removeprefix(_MODEL) if self.use.startswith(_MODEL) else None

    @model_validator(mode="after")
    def _clip_is_a_range(self) -> "RewardSpec":
        if self.clip is not None and not self.clip[0] < self.clip[1]:
            raise ValueError(f"clip={list(self.clip)}: the first number must be the lower one")
        return self

    @model_validator(mode="after")
    def _models_take_no_args(self) -> "RewardSpec":
        if self.model_path is not None and (self.args or self.timeout_seconds is not None):
            raise ValueError(f"use={self.use!r}: a reward model takes no args and no timeout; see reward_model")
        return self


def check_rewards(specs: Sequence[RewardSpec]) -> tuple[RewardSpec, ...]:
    """`specs`, if they can be combined; else ValueError. Names are unique, references name another reward."""
    labels = [spec.label for spec in specs]
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(f"two rewards are called {label!r}; give one of them another `name`")
    if specs and not any(spec.weight for spec in specs):
        raise ValueError("every reward has weight 0: nothing would be rewarded")
    for place, spec in enumerate(specs):
        others = [label for label in labels if label != spec.label]
        if spec.times is not None and spec.times not in others:
            raise ValueError(f"reward {spec.label!r}: times={spec.times!r} is no other reward; choose one of {others}")
        if spec.instead_of is not None and spec.instead_of not in labels[:place]:
            raise ValueError(
                f"reward {spec.label!r}: instead_of={spec.instead_of!r} must name a reward above it, "
                f"one of {labels[:place]}"
            )
    return tuple(specs)


RewardSpecs = Annotated[tuple[RewardSpec, ...], AfterValidator(check_rewards)]


class RewardPoolConfig(Section):
    """The processes that run rule rewards."""

    num_processes: int = Field(default=1, ge=1)
    """Worker processes."""
    timeout_seconds: float = Field(default=5.0, gt=0)
    """Wall-clock limit of one call."""
    memory_gib: float = Field(default=2.0, gt=0)
    """Address-space limit of one process."""
    max_error_rate: float = Field(default=0.01, ge=0, le=1)
    """The run stops when more than this share of the scores of a step fail."""
    stop_after_equal_steps: int | None = Field(default=None, ge=1)
    """The run stops after so many steps in a row in which all rewards were the same; none: never."""


class RewardModelConfig(Section):
    """The Ray actors that hold a reward model (`use: model:PATH`)."""

    num_replicas: int = Field(default=1, ge=1)
    """Copies of each reward model; whichever is idle takes the next samples."""
    ranks_per_replica: int = Field(default=1, ge=1)
    """Processes, one device each, that hold one copy together by ZeRO-3: for a model that fits no single device."""
    placement: PlacementConfig = PlacementConfig()
    """Where the processes of each copy are put."""
    dtype: Dtype = "float32"
    """Precision of its weights and of the forward pass."""
    tokens_per_batch: int = Field(default=8192, ge=1)
    """Tokens of one forward pass, padding included; a longer text goes alone."""
    threads_per_replica: int = Field(default=1, ge=1)
    """CPU threads of each of its processes."""
    start_timeout_seconds: float = Field(default=600, gt=0)
    """Longest time that a replica may take to load its model."""
    timeout_seconds: float = Field(default=300, gt=0)
    """A replica that takes longer for one piece of work is taken for hung, and replaced."""
    max_restarts: int = Field(default=3, ge=0)
    """How often one replica is replaced before it is given up."""

    @model_validator(mode="after")
    def _ranks_have_devices_of_their_own(self) -> "RewardModelConfig":
        self.placement.check_group(self.ranks_per_replica, "ranks_per_replica")
        return self
