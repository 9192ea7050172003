"""The sampling engine: vLLM inside this process, stepped by whoever owns it.

Importing vllm takes seconds, so this file and those that it alone imports (parts, model_part, adapters), the only
ones that do, are imported where an engine starts.
Its parts are used below vLLM's public classes on purpose: a step returns plain tokens and log-probs, and
between two steps the owner may load weights, so that every token's policy version is known.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from vllm.engine.arg_utils import EngineArgs
from vllm.lora.request import LoRARequest
from vllm.sampling_params import SamplingParams
from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest
from vllm.v1.engine.core_client import InprocClient
from vllm.v1.executor import Executor
from vllm.v1.metrics.stats import SchedulerStats

from actors.adapters import adapter_arguments
from actors.messages import ChannelSpec, EngineStats, RolloutSpec, SequenceRequest
from actors.model_part import SEED
from actors.parts import parts_of
from actors.weights import Bytes
from experience.episode import Completion
from experience.records import Weights

CPU_BLOCK_TOKENS = 32  # tokens of a KV-cache block; vLLM's CPU attention takes multiples of 32 only
DROP_ALL, KEEP_WEIGHTS = 2, 1  # vLLM's levels of sleep
MIN_BATCHED_TOKENS = 8192  # prompt tokens that one step may take in


@dataclass(slots=True)
class _Running:
    """A sequence in the making."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    tops: list[tuple[NDArray[np.int32], NDArray[np.float32]]] = field(default_factory=list)  # where they are wanted

    def completion(self, finish_reason: str) -> Completion:
        return Completion(
            tokens=np.array(self.tokens, dtype=np.int32),
            logprobs=np.array(self.logprobs, dtype=np.float32),
            versions=np.array(self.versions, dtype=np.int32),
            finish_reason=finish_reason,  # type: ignore[arg-type]
            top_tokens=np.concatenate([tokens for tokens, _ in self.tops]) if self.tops else None,
            top_logprobs=np.concatenate([logprobs for _, logprobs in self.tops]) if self.tops else None,
        )


class Engine:
    """A vLLM engine without weights: `load` gives it a version, and only then may it sample."""

    def __init__(self, spec: RolloutSpec) -> None:
        self._spec = spec
        self._running: dict[str, _Running] = {}
        self.version: int | None = None
        self.num_tokens = 0
        self._is_asleep = False
        self.stats = EngineStats()
        self._config = engine_args(spec).create_engine_config()
        self._core = InprocClient(self._config, Executor.get_class(self._config), log_stats=True)
        self._parts = parts_of(self._core.engine_core.model_executor, spec, self._config)

    @property
    def ties_embeddings(self) -> bool:
        """Whether the output head is the input embedding, and has no tensor of its own."""
        return bool(getattr(self._config.model_config.hf_config, "tie_word_embeddings", False))

    @property
    def num_running(self) -> int:
        """Sequences that are not finished."""
        return len(self._running)

    def add(self, request: SequenceRequest) -> None:
        """Take a sequence in; it is sampled from the next step on."""
        self._running[request.id] = _Running()
        request = replace(request, num_top=min(request.num_top, self._config.model_config.get_vocab_size()))
        # Where old keys and values stay, no later sequence may find them in the prefix cache.
        salt = None if self._spec.config.recompute_kv else str(self.version)
        self._core.add_request(core_request(request, self._spec.stop_token_ids, self._parts.adapter, salt))

    def abort(self, request_ids: Sequence[str]) -> None:
        """Drop these sequences, where they are not finished already."""
        running = [id_ for id_ in request_ids if self._running.pop(id_, None) is not None]
        self._core.abort_requests(running)
        if not self._running:  # no step follows that would say so
            self.stats = replace(self.stats, num_running=0, num_waiting=0, kv_cache_usage=0.0)

    def step(self) -> list[tuple[str, Completion]]:
        """Sample one more token of every running sequence; the finished ones, by request id."""
        assert self.version is not None, "an engine without proven weights must not sample"
        finished = []
        outputs = self._core.get_output()
        self.stats = stats_after(self.stats, outputs.scheduler_stats)
        for output in outputs.outputs:
            running = self._running.get(output.request_id)
            if running is None:  # aborted
                continue
            running.tokens += output.new_token_ids
            running.logprobs += sampled_logprobs(output)
            running.versions += [self.version] * len(output.new_token_ids)
            running.tops += top_logprobs(output)
            self.num_tokens += len(output.new_token_ids)
            if output.finish_reason is not None:
                del self._running[output.request_id]
                finished.append((output.request_id, running.completion(str(output.finish_reason))))
        return finished

    def meet(self, spec: ChannelSpec, place: int) -> None:
        """See SamplingEngine."""
        self._parts.meet(spec, place)

    def load(self, weights: Weights, contents: Sequence[Sequence[Bytes]] | None) -> None:
        """Replace the weights, between two steps. Running sequences go on under the new version.

        An engine that sleeps wakes. Names, shapes and dtypes must have been checked: a failure in here leaves a
        broken engine.
        """
        self.version = None
        if self._is_asleep:
            self._core.wake_up()
            self._is_asleep = False
        self._parts.receive(weights) if contents is None else self._parts.load(weights, contents)
        # The old weights' keys and values must not serve the new ones: those of running sequences are
        # computed anew, so each token's log-prob is exactly that of its version.
        if self._spec.config.recompute_kv or not self._running:
            self._core.reset_prefix_cache(reset_running_requests=True)
        self.version = weights.version

    @property
    def can_sleep(self) -> bool:
        """On a GPU alone, and only where its memory was taken from an allocator that gives it back."""
        return self._config.model_config.enable_sleep_mode

    def sleep(self) -> None:
        """Drop weights and cache, until the next `load`. Nothing may be running."""
        assert self.can_sleep and not self._running
        self.version = None
        # An adapter's load brings no other weights: those of the model go to host memory meanwhile.
        self._core.sleep(level=DROP_ALL if self._spec.adapter is None else KEEP_WEIGHTS)
        self._is_asleep = True

    def check(self) -> None:
        """RuntimeError where a process of the engine is lost."""
        self._parts.check()

    def warm_up(self) -> float:
        """Seconds that the first, slow pass through the sampler took. Leaves no trace."""
        begin = time.monotonic()
        self.version = -1
        for index, temperature in enumerate((1.0, 0.0)):
            request = SequenceRequest(id=f"warm-up-{index}", tokens=[0], max_tokens=2, temperature=temperature, seed=0)
            self.add(request)
        while self._running:
            self.step()
        self._core.reset_prefix_cache()
        self.version, self.num_tokens, self.stats = None, 0, EngineStats()
        return time.monotonic() - begin

    def close(self) -> None:
        """Give back what the engine holds, so that another one may start in this process."""
        self._core.shutdown()


def engine_args(spec: RolloutSpec) -> EngineArgs:
    """vLLM's settings for a worker: the fastest start, and log-probs of the sampled distribution."""
    config = spec.config
    device: dict[str, Any] = (
        {
            "gpu_memory_utilization": config.gpu_memory_utilization,
            "enforce_eager": not config.cuda_graphs,
            "enable_sleep_mode": config.colocated,
        }
        if spec.use_gpu
        else {"block_size": CPU_BLOCK_TOKENS, "enforce_eager": True}
    )
    return EngineArgs(
        model=spec.model_path,
        trust_remote_code=spec.trust_remote_code,
        # The trainer's weights follow, and reading the checkpoint would be wasted; an adapter has no others.
        load_format="dummy" if spec.adapter is None else "safetensors",
        dtype=config.dtype,
        max_model_len=spec.max_model_len,
        max_num_seqs=config.max_running_sequences,
        max_num_batched_tokens=max(MIN_BATCHED_TOKENS, spec.max_model_len, config.max_running_sequences),
        tensor_parallel_size=config.tensor_parallel_size,
        distributed_executor_backend="uni" if config.tensor_parallel_size == 1 else "mp",
        worker_extension_cls="" if config.tensor_parallel_size == 1 else "actors.part_worker.PartWorker",
        async_scheduling=False,  # a step begins and ends under one policy version
        logprobs_mode="processed_logprobs",
        generation_config="vllm",  # not the checkpoint's own top-p and temperature
        skip_tokenizer_init=True,
        disable_log_stats=True,
        **device,
        **({} if spec.adapter is None else adapter_arguments(spec.adapter)),
    )


def core_request(
    request: SequenceRequest,
    stop_token_ids: tuple[int, ...],
    adapter: LoRARequest | None = None,
    cache_salt: str | None = None,
) -> EngineCoreRequest:
    """A sequence in vLLM's terms. `cache_salt`: its prefix is looked for among sequences with the same one."""
    params = SamplingParams(
        temperature=request.temperature,
        max_tokens=request.max_tokens,
        stop_token_ids=list(stop_token_ids),
        logprobs=request.num_top,
        detokenize=False,
        extra_args={SEED: request.seed},
    )
    return EngineCoreRequest(
        request_id=request.id,
        prompt_token_ids=request.tokens,
        mm_features=None,
        sampling_params=params,
        pooling_params=None,
        arrival_time=time.time(),
        lora_request=adapter,
        cache_salt=cache_salt,
        data_parallel_rank=None,
    )


def stats_after(before: EngineStats, told: SchedulerStats | None) -> EngineStats:
    """The engine's own account, with what its prefix cache did up to the last step and in this one."""
    if told is None:
        return before
    cache = told.prefix_cache_stats
    return EngineStats(
        num_running=told.num_running_reqs,
        num_waiting=told.num_waiting_reqs,
        kv_cache_usage=told.kv_cache_usage,
        num_prefix_queries=before.num_prefix_queries + cache.queries,
        num_prefix_hits=before.num_prefix_hits + cache.hits,
    )


def sampled_logprobs(output: EngineCoreOutput) -> list[float]:
    """Log-prob of each newly sampled token."""
    assert output.new_logprobs is not None, "every request asks for log-probs"
    return output.new_logprobs.logprobs[:, 0].tolist()


def top_logprobs(output: EngineCoreOutput) -> list[tuple[NDArray[np.int32], NDArray[np.float32]]]:
    """The likeliest tokens and their log-probs, [tokens, K] each, likeliest first; empty where none were asked for."""
    told = output.new_logprobs
    if told is None or told.logprobs.shape[1] == 1:
        return []
    # Before them stands the sampled token, which may be one of them.
    return [(told.logprob_token_ids[:, 1:].astype(np.int32), told.logprobs[:, 1:].astype(np.float32))]
