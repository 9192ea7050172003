"""The stages that `wutong train` knows: from pre-training to reinforcement learning."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.schema.algorithm import AlgorithmConfig
from configs.schema.base import Section
from configs.schema.data import DataConfig, MixConfig
from configs.schema.guard import GuardConfig, check_gold
from configs.schema.model import ModelConfig
from configs.schema.rewards import RewardModelConfig, RewardPoolConfig, RewardSpec, RewardSpecs
from configs.schema.rollout import EvaluationConfig, RolloutConfig
from configs.schema.training import (
    CheckpointConfig,
    CriticConfig,
    LoggingConfig,
    OptimizerConfig,
    ReferenceConfig,
    TrainerConfig,
)


class ClusterConfig(Section):
    """The Ray cluster to run on."""

    address: str | None = None
    """Address of a running cluster (`auto` inside a job); none: start a local one and end it with the run."""
    insecure: bool = False
    """Join a cluster that asks for no token, where whoever reaches it can run code; each start warns of it."""
    num_cpus: int | None = Field(default=None, ge=1)
    """Logical CPUs of the local cluster; none: as many as the machine has, at least what the run needs."""
    dashboard: bool = False
    """Serve Ray's dashboard from the local cluster."""

    @model_validator(mode="after")
    def _only_others_are_insecure(self) -> "ClusterConfig":
        if self.insecure and self.address is None:
            raise ValueError(
                "insecure=true without an address: a cluster that the run starts itself always asks for a token; "
                "leave it out"
            )
        return self


class NamedStage(Section):
    """What every stage has, whether it trains or not."""

    name: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$")
    """Name of the run and of its folder."""
    output_dir: str = "runs"
    """Folder that holds the run's folder."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of weights, data order and sampling."""


class BaseRun(NamedStage):
    """What every stage has that trains."""

    model: ModelConfig
    """What is trained."""
    data: DataConfig
    """What it is trained on."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """How the weights move."""
    trainer: TrainerConfig = TrainerConfig()
    """The processes that hold and update the weights."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """When state is saved."""
    logging: LoggingConfig = LoggingConfig()
    """Where metrics go."""
    cluster: ClusterConfig = ClusterConfig()
    """The Ray cluster."""
    max_hours: float | None = Field(default=None, gt=0)
    """Stop after so many hours, as SIGTERM does: saved, resumable, exit code 75; none: no limit."""
    grace_seconds: float = Field(default=20, ge=0)
    """How long a stop waits for the samples of the step under way before it gives them up."""
    hang_timeout_seconds: float = Field(default=1800, gt=0)
    """A step, a save or a start that makes no progress for this long is taken for hung: see docs/faults.md."""
    num_steps: int = Field(ge=1)
    """Training steps (one optimiser step each, but for RL with several mini-batches or epochs)."""


class SupervisedRun(BaseRun):
    """What the stages share that learn from data alone, without sampling."""

    max_sequence_tokens: int = Field(default=512, ge=2)
    """Longest sequence, in tokens; longer texts are cut into several, longer conversations are refused."""
    eval_every_steps: int = Field(default=0, ge=0)
    """Measure on held-out data every so many steps; 0: only after the last."""


class ImitationRun(SupervisedRun):
    """What pre-training and supervised fine-tuning share."""

    sequences_per_step: int = Field(default=64, ge=1)
    """Sequences in one optimiser step."""
    eval_sequences: int = Field(default=256, ge=1)
    """Held-out sequences to measure on."""


class PretrainRun(ImitationRun):
    """Next-token prediction on plain text."""

    stage: Literal["pretrain"]
    """Next-token prediction on plain text."""


class SftRun(ImitationRun):
    """Imitation of responses; only their tokens count in the loss."""

    stage: Literal["sft"]
    """Supervised fine-tuning on prompts and responses."""
    mix: MixConfig | None = None
    """Pre-training text beside the responses, against forgetting."""


class PreferenceRun(SupervisedRun):
    """What the stages share that learn from comparisons of responses."""

    comparisons_per_step: int = Field(default=64, ge=1)
    """Prompts, each with its ranked responses, in one optimiser step."""
    eval_comparisons: int = Field(default=512, ge=1)
    """Held-out prompts to measure on."""

    @model_validator(mode="after")
    def _starts_from_a_checkpoint(self) -> "PreferenceRun":
        if self.model.new is not None:
            raise ValueError("model.new: comparisons are learned by a trained model; set model.path to its folder")
        return self


class RewardModelRun(PreferenceRun):
    """A reward model from comparisons (Bradley-Terry)."""

    stage: Literal["reward_model"]
    """A reward model from comparisons."""
    margin_scale: float = Field(default=0.0, ge=0)
    """How much further apart rewards must be for each point that the ratings differ; 0: no margin."""
    normalize: Literal["mean", "mean_and_deviation"] = "mean"
    """What is stored with the model: rewards of the data's responses have mean 0, or deviation 1 too."""

    @model_validator(mode="after")
    def _trains_whole_weights(self) -> "RewardModelRun":
        if self.model.lora is not None:
            raise ValueError("model.lora: reward models are trained whole; leave it out")
        return self


class DpoRun(PreferenceRun):
    """Direct preference optimisation of a policy."""

    stage: Literal["dpo"]
    """Direct preference optimisation."""
    beta: float = Field(default=0.1, gt=0)
    """How fast rewards grow with the log-prob that the policy gains over its start; smaller: further away."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Chance that a comparison was labelled the wrong way round (conservative DPO)."""


class RlRun(BaseRun):
    """Reinforcement learning from rewards."""

    stage: Literal["rl"]
    """Reinforcement learning."""
    rollout: RolloutConfig = RolloutConfig()
    """Sampling and batch shape."""
    algorithm: AlgorithmConfig = AlgorithmConfig()
    """The objective."""
    critic: CriticConfig = CriticConfig()
    """The value model, for algorithms that have one."""
    reference: ReferenceConfig = ReferenceConfig()
    """Where the frozen start of the policy is held, for algorithms that compare with it."""
    mix: MixConfig | None = None
    """Pre-training text beside the samples, against forgetting (PPO-ptx)."""
    rewards: RewardSpecs = Field(min_length=1)
    """What is rewarded; the sum is weighted."""
    reward_pool: RewardPoolConfig = RewardPoolConfig()
    """The processes that run rule rewards."""
    reward_model: RewardModelConfig = RewardModelConfig()
    """The actors that run reward models."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Held-out evaluation."""
    guard: GuardConfig | None = None
    """The guard against over-optimisation of the rewards; none: nobody watches."""

    @property
    def all_scorers(self) -> tuple[RewardSpec, ...]:
        """The rewards and the guard's gold."""
        return self.rewards if self.guard is None else (*self.rewards, *self.guard.gold)

    @property
    def measures_kl(self) -> bool:
        """Whether the guard needs a reference, also where the algorithm has none."""
        return self.guard is not None and self.guard.measure_kl

    @model_validator(mode="after")
    def _guard_can_act(self) -> "RlRun":
        guard, checkpoint = self.guard, self.checkpoint
        if guard is None:
            return self
        check_gold(guard, self.rewards)
        if guard.action != "roll_back":
            return self
        if not checkpoint.keep_best:
            raise ValueError(
                "guard.action=roll_back with checkpoint.keep_best=0: no best checkpoint is kept to go back to; set "
                "checkpoint.keep_best=1 and checkpoint.every_steps"
            )
        if self.rollout.max_staleness:
            raise ValueError(
                f"guard.action=roll_back with rollout.max_staleness={self.rollout.max_staleness}: samples of the "
                "policy that is left would be trained on; set max_staleness=0"
            )
        return self

    @model_validator(mode="after")
    def _own_ranks_divide(self) -> "RlRun":
        size = self.trainer.sequence_parallel_size
        for name, ranks in (("critic", self.critic.num_ranks), ("reference", self.reference.num_ranks)):
            if ranks % size:
                raise ValueError(
                    f"{name}.num_ranks={ranks} must be a multiple of trainer.sequence_parallel_size={size}: they share "
                    f"tokens as the policy's do; nearest: {-(-ranks // size) * size}"
                )
        return self

    @model_validator(mode="after")
    def _engines_match_ranks(self) -> "RlRun":
        workers, ranks = self.rollout.num_workers, self.trainer.num_ranks
        if self.rollout.colocated and workers != ranks:
            raise ValueError(
                f"rollout.num_workers={workers} with rollout.colocated=true: each of the {ranks} GPUs of the trainer "
                f"(trainer.num_ranks) has one engine; set rollout.num_workers={ranks}"
            )
        return self

    @model_validator(mode="after")
    def _batch_divides(self) -> "RlRun":
        prompts, cuts = self.rollout.prompts_per_step, self.algorithm.mini_batches
        if prompts % cuts:
            raise ValueError(
                f"rollout.prompts_per_step={prompts} must be a multiple of algorithm.mini_batches={cuts}; "
                f"nearest: {prompts - prompts % cuts or cuts}"
            )
        return self

    @model_validator(mode="after")
    def _adapters_fit(self) -> "RlRun":
        if self.model.lora is None and self.rollout.lora_sync != "merged":
            raise ValueError(
                f"rollout.lora_sync={self.rollout.lora_sync} without model.lora: there are no adapters to send; "
                "set model.lora={} or leave it out"
            )
        if self.model.lora is not None and self.algorithm.reference_refresh_steps:
            raise ValueError(
                f"algorithm.reference_refresh_steps={self.algorithm.reference_refresh_steps} with model.lora: the "
                "reference is the model without its adapters, which never moves; set one of the two to 0 or null"
            )
        return self


Run = Annotated[PretrainRun | SftRun | RewardModelRun | DpoRun | RlRun, Field(discriminator="stage")]
