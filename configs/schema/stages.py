"""The stages that `wutong run` knows besides those of `wutong train`: they sample, measure and hand on."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.schema.base import Section
from configs.schema.data import DataConfig
from configs.schema.model import ModelConfig
from configs.schema.rewards import RewardModelConfig, RewardPoolConfig, RewardSpec, RewardSpecs
from configs.schema.rollout import RolloutConfig
from configs.schema.run import ClusterConfig, DpoRun, NamedStage, PretrainRun, RewardModelRun, RlRun, SftRun

MAX_BEAM_WIDTH = 32

# What of `rollout` is about training steps.
_OF_STEPS = ("prompts_per_step", "group_size", "max_staleness", "autoscale", "colocated", "weight_update", "lora_sync")


class HandingStage(NamedStage):
    """What the stages share that train nothing."""

    cluster: ClusterConfig = ClusterConfig()
    """The Ray cluster."""
    hang_timeout_seconds: float = Field(default=1800, gt=0)
    """A start or a piece of sampling that makes no progress for this long is taken for hung: see docs/faults.md."""


class SampledStage(HandingStage):
    """What the stages share that sample a model through rollout workers and score what it says."""

    model: ModelConfig
    """Who is sampled."""
    data: DataConfig
    """The prompts, with what the rewards compare with."""
    rollout: RolloutConfig = RolloutConfig()
    """The workers and the sampling; keys about training steps have no place here."""
    rewards: RewardSpecs = Field(min_length=1)
    """What says how good a response is; the sum is weighted."""

    @model_validator(mode="after")
    def _samples_a_checkpoint(self) -> "SampledStage":
        if self.model.new is not None or self.model.lora is not None:
            raise ValueError("model: a checkpoint is sampled as it is; set model.path and nothing to be trained")
        return self

    @model_validator(mode="after")
    def _has_no_steps(self) -> "SampledStage":
        if given := [key for key in _OF_STEPS if key in self.rollout.model_fields_set]:
            raise ValueError(f"rollout.{given[0]} has no effect here, where nothing is trained; leave it out")
        return self


class SamplesStage(SampledStage):
    """What the stages share that make a data set of what they sample."""

    reward_pool: RewardPoolConfig = RewardPoolConfig()
    """The processes that run rule rewards."""
    reward_model: RewardModelConfig = RewardModelConfig()
    """The actors that run reward models."""
    num_prompts: int = Field(default=512, ge=1)
    """Prompts to sample, the first of the data in the order that the seed gives (all, if there are fewer)."""
    prompts_per_part: int = Field(default=256, ge=1)
    """Prompts between two saves: what was sampled before a kill is not sampled again."""


class PreferencesStage(SamplesStage):
    """Comparisons by a known reward: several responses a prompt, rated (InstructGPT, arXiv:2203.02155, section 3.5)."""

    stage: Literal["preferences"]
    """Comparisons of sampled responses by a known reward."""
    samples_per_prompt: int = Field(default=4, ge=2, le=9)
    """Responses to each prompt; all pairs of them are one row of the data."""
    num_eval_prompts: int = Field(default=0, ge=0)
    """Held-out prompts to make held-out comparisons of; 0: none are made."""
    label_temperature: float = Field(default=0.0, ge=0)
    """0: the higher reward always wins; else with probability sigmoid(difference / temperature) (Bradley-Terry)."""


class ReadableRule(Section):
    """One rule that a response must pass to be kept."""

    use: str
    """A built-in reward (`wutong reward list`) or `path/to/file.py:function`."""
    args: dict[str, object] = Field(default_factory=dict)
    """Keyword arguments for the rule."""
    name: str | None = None
    """Its name in messages; none: the built-in's or the function's."""
    at_least: float = Field(default=1.0, allow_inf_nan=False)
    """The least value that passes."""

    @property
    def reward(self) -> RewardSpec:
        """The rule as a reward that counts for nothing in the sum."""
        return RewardSpec(use=self.use, args=self.args, name=self.name, weight=0.0)


class RejectionSamplingStage(SamplesStage):
    """The best of a policy's own responses as data to imitate (DeepSeek-R1, arXiv:2501.12948, section 2.3.3)."""

    stage: Literal["rejection_sampling"]
    """Right and readable responses, kept as data for SFT."""
    samples_per_prompt: int = Field(default=4, ge=1)
    """Responses to each prompt."""
    threshold: float = Field(default=1.0, allow_inf_nan=False)
    """The least reward of a response that is right."""
    readable: tuple[ReadableRule, ...] = ()
    """Rules that a response must pass besides."""
    max_per_prompt: int = Field(default=1, ge=1)
    """Most responses to one prompt that are kept: the first of those that are right, readable and different."""


class EvaluateStage(SampledStage):
    """How well a model answers held-out prompts, as `wutong evaluate`."""

    stage: Literal["evaluate"]
    """Accuracy on held-out prompts."""
    num_prompts: int = Field(default=512, ge=1)
    """Prompts to use: the first of data.eval, else of data.train (all, if there are fewer)."""
    num_samples: int = Field(default=0, ge=0)
    """Sampled responses a prompt beside the greedy one, for pass@k; 0: greedy alone."""
    beam_width: int = Field(default=0, ge=0, le=MAX_BEAM_WIDTH)
    """Width of a beam search beside the greedy response; 0: none."""
    against: ModelConfig | None = None
    """Another model that answers the same prompts; results.json then has differences and win rates."""

    @model_validator(mode="after")
    def _compares_two_checkpoints(self) -> "EvaluateStage":
        if self.against is None:
            return self
        if self.against.new is not None or self.against.lora is not None:
            raise ValueError("against: a checkpoint is sampled as it is; set against.path and nothing to be trained")
        if self.against.path == self.model.path:
            raise ValueError(f"against.path={self.against.path}: the model itself; name another one")
        return self


class ExportStage(HandingStage):
    """A trained stage's model as a folder in Hugging Face format at a place of your choice."""

    stage: Literal["export"]
    """A checkpoint as a folder in Hugging Face format."""
    run: str
    """The folder of a stage that trains, `${NAME.run}`."""
    to: str
    """The folder to make; it starts at the current folder."""
    checkpoint: Literal["newest", "best"] = "newest"
    """`newest`: the end of the training; `best`: the best by checkpoint.best_metric of those kept (keep_best)."""


Stage = Annotated[
    PretrainRun
    | SftRun
    | RewardModelRun
    | DpoRun
    | RlRun
    | PreferencesStage
    | RejectionSamplingStage
    | EvaluateStage
    | ExportStage,
    Field(discriminator="stage"),
]
