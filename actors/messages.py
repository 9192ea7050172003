"""What the rollout fleet and its workers say to each other."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from configs.schema.model import LoraConfig
from configs.schema.rollout import RolloutConfig
from experience.records import FinishReason, Sampling

MIN_TEMPERATURE = 0.01  # vLLM raises lower ones to this, and only logs it


class EngineFailed(RuntimeError):
    """A rollout engine that can't go on.

    The engine's own exception never leaves its process: to unpickle it, the driver would import vLLM.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSpec:
    """Everything that a rollout worker is told at birth.

    `model_path`: folder in Hugging Face format, with the tokenizer; its weights are used beside an adapter only.
    `adapter`: the engine is sent adapters like this one, and no other weights.
    `max_model_len`: tokens of prompt and response together.
    `stop_token_ids`: tokens that end a response, and stay its last token.
    `threads`: what each process of the engine computes with, on a CPU.
    `engine`: the class of its SamplingEngine, as module:name; imported by the worker alone.
    """

    model_path: str
    config: RolloutConfig
    max_model_len: int
    stop_token_ids: tuple[int, ...]
    use_gpu: bool = False
    trust_remote_code: bool = False
    adapter: LoraConfig | None = None
    threads: int = 1
    engine: str = "actors.engine:Engine"

    def __post_init__(self) -> None:
        if 0 < self.config.sampling.temperature < MIN_TEMPERATURE:
            raise ValueError(
                f"rollout.sampling.temperature={self.config.sampling.temperature}: the engine would sample at "
                f"{MIN_TEMPERATURE} instead; use at least that"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRequest:
    """One prompt to sample from. `ticket` is this request's own number; `ordinal` decides the seeds."""

    ticket: int
    ordinal: int
    tokens: NDArray[np.int32]
    sampling: Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceRequest:
    """One sequence to sample, as an episode asks its engine. `seed` has no effect at temperature 0.

    `num_top`: how many of the likeliest tokens are wanted at each place beside the sampled one.
    """

    id: str
    tokens: list[int]
    max_tokens: int
    temperature: float
    seed: int
    num_top: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleResult:
    """What the driver gets to know of one sample: all but its tokens."""

    row: int
    num_prompt_tokens: int
    num_response_tokens: int
    text: str
    finish_reason: FinishReason
    min_version: int
    max_version: int
    mean_logprob: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupResult:
    """All samples of one request, in sample order."""

    ticket: int
    samples: tuple[SampleResult, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What a worker did since its start: steps of its engine and the seconds they took, sampled tokens, and samples
    that are finished (or given up), also those of unfinished groups."""

    num_steps: int = 0
    num_tokens: int = 0
    num_finished: int = 0
    busy_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Harvest:
    """The groups that were finished at one moment."""

    groups: tuple[GroupResult, ...]
    progress: Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class StartFacts:
    """How long each part of an engine's start took, in seconds, and where it runs."""

    import_seconds: float
    engine_seconds: float
    warm_up_seconds: float
    node: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """How an engine stands, by its own account after its last step.

    `kv_cache_usage`: 0 to 1. `num_prefix_queries`, `num_prefix_hits`: tokens of prompts looked up and found in the
    prefix cache, since the start.
    """

    num_running: int = 0
    num_waiting: int = 0
    kv_cache_usage: float = 0.0
    num_prefix_queries: int = 0
    num_prefix_hits: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """One look at a worker. `progress` moves while it has work, or it hangs. `log`: what its process said last."""

    version: int | None
    num_unfinished: int
    progress: Progress
    error: str | None
    engine: EngineStats = EngineStats()
    log: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelSpec:
    """Where a channel's processes meet. `size`: of them all; the one that sends has place 0, and listens there."""

    host: str
    port: int
    size: int
    timeout_seconds: float
    use_gpu: bool
