"""The sampling engine: vLLM inside this process, stepped by whoever owns it.

Importing vllm takes seconds, so this file and actors/adapters.py, the only ones that do, are imported where an
engine starts.
Its parts are used below vLLM's public classes on purpose: a step returns plain tokens and log-probs, and
between two steps the owner may load weights, so that every token's policy version is known.
"""

import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from vllm.engine.arg_utils import EngineArgs
from vllm.lora.request import LoRARequest
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.sampling_params import SamplingParams
from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest
from vllm.v1.engine.core_client import InprocClient
from vllm.v1.executor import Executor

from actors.adapters import EngineAdapter, adapter_arguments
from actors.messages import RolloutSpec, SequenceRequest
from actors.sampler import SeededSampler
from experience.episode import Completion

CPU_BLOCK_TOKENS = 32  # tokens of a KV-cache block; vLLM's CPU attention takes multiples of 32 only
MIN_BATCHED_TOKENS = 8192  # prompt tokens that one step may take in


@dataclass(slots=True)
class _Running:
    """A sequence in the making."""

    seed: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)

    def completion(self, finish_reason: str) -> Completion:
        return Completion(
            tokens=np.array(self.tokens, dtype=np.int32),
            logprobs=np.array(self.logprobs, dtype=np.float32),
            versions=np.array(self.versions, dtype=np.int32),
            finish_reason=finish_reason,  # type: ignore[arg-type]
        )


class Engine:
    """A vLLM engine without weights: `load` gives it a version, and only then may it sample."""

    def __init__(self, spec: RolloutSpec) -> None:
        self._spec = spec
        self._running: dict[str, _Running] = {}
        self.version: int | None = None
        self.num_tokens = 0
        self._config = engine_args(spec).create_engine_config()
        self._core = InprocClient(self._config, Executor.get_class(self._config), log_stats=False)
        executor: Any = self._core.engine_core.model_executor
        runner = executor.driver_worker.worker.model_runner
        self._model: torch.nn.Module = runner.get_model()
        self._batch = runner.input_batch
        self._adapter = None if spec.adapter is None else EngineAdapter(spec.adapter, runner, self._config)
        runner.sampler.topk_topp_sampler = SeededSampler(self._rows)

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
        self._running[request.id] = _Running(seed=request.seed)
        adapter = None if self._adapter is None else self._adapter.request
        self._core.add_request(core_request(request, self._spec.stop_token_ids, adapter))

    def abort(self, request_ids: Sequence[str]) -> None:
        """Drop these sequences, where they are not finished already."""
        running = [id_ for id_ in request_ids if self._running.pop(id_, None) is not None]
        self._core.abort_requests(running)

    def step(self) -> list[tuple[str, Completion]]:
        """Sample one more token of every running sequence; the finished ones, by request id."""
        assert self.version is not None, "an engine without proven weights must not sample"
        finished = []
        for output in self._core.get_output().outputs:
            running = self._running.get(output.request_id)
            if running is None:  # aborted
                continue
            running.tokens += output.new_token_ids
            running.logprobs += sampled_logprobs(output)
            running.versions += [self.version] * len(output.new_token_ids)
            self.num_tokens += len(output.new_token_ids)
            if output.finish_reason is not None:
                del self._running[output.request_id]
                finished.append((output.request_id, running.completion(str(output.finish_reason))))
        return finished

    def _rows(self) -> tuple[list[int], NDArray[np.integer]]:
        """Seed and number of tokens of each sequence of the batch under way."""
        ids = self._batch.req_ids
        return [self._running[id_].seed for id_ in ids], self._batch.num_tokens_no_spec[: len(ids)]

    def load(self, version: int, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Replace the weights, between two steps. Running sequences go on under the new version.

        Names, shapes and dtypes must have been checked: a failure in here leaves a broken engine.
        """
        self.version = None
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            if self._adapter is not None:
                self._adapter.load(tensors)
            else:
                self._load_whole(tensors)
        # The old weights' keys and values must not serve the new ones: those of running sequences are
        # computed anew, so each token's log-prob is exactly that of its version.
        self._core.reset_prefix_cache(reset_running_requests=True)
        self.version = version

    def _load_whole(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        initialize_layerwise_reload(self._model)
        if not self._spec.use_gpu:
            forget_expert_kernels(self._model)
        self._model.load_weights(tensors)  # type: ignore[operator]
        finalize_layerwise_reload(self._model, self._config.model_config)
        repack_tied_head(self._model)

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
        self.version, self.num_tokens = None, 0
        return time.monotonic() - begin

    def close(self) -> None:
        """Give back what the engine holds, so that another one may start in this process."""
        self._core.shutdown()


def engine_args(spec: RolloutSpec) -> EngineArgs:
    """vLLM's settings for a worker: the fastest start, and log-probs of the sampled distribution."""
    config = spec.config
    device: dict[str, Any] = (
        {"gpu_memory_utilization": config.gpu_memory_utilization, "enforce_eager": not config.cuda_graphs}
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
        distributed_executor_backend="uni",
        async_scheduling=False,  # a step begins and ends under one policy version
        logprobs_mode="processed_logprobs",
        generation_config="vllm",  # not the checkpoint's own top-p and temperature
        skip_tokenizer_init=True,
        disable_log_stats=True,
        **device,
        **({} if spec.adapter is None else adapter_arguments(spec.adapter)),
    )


def core_request(
    request: SequenceRequest, stop_token_ids: tuple[int, ...], adapter: LoRARequest | None = None
) -> EngineCoreRequest:
    """A sequence in vLLM's terms."""
    params = SamplingParams(
        temperature=request.temperature,
        max_tokens=request.max_tokens,
        stop_token_ids=list(stop_token_ids),
        logprobs=0,
        detokenize=False,
    )
    return EngineCoreRequest(
        request_id=request.id,
        prompt_token_ids=request.tokens,
        mm_features=None,
        sampling_params=params,
        pooling_params=None,
        arrival_time=time.time(),
        lora_request=adapter,
        cache_salt=None,
        data_parallel_rank=None,
    )


def sampled_logprobs(output: EngineCoreOutput) -> list[float]:
    """Log-prob of each newly sampled token."""
    assert output.new_logprobs is not None, "every request asks for log-probs"
    return output.new_logprobs.logprobs[:, 0].tolist()


def forget_expert_kernels(model: torch.nn.Module) -> None:
    """Have the kernels of a mixture's experts made anew by the load that follows.

    On CPUs vLLM packs the experts' weights when it makes their kernel, and only then: a load under a kernel
    that is there leaves them unpacked, and the policy another one, silently.
    """
    for module in model.modules():
        method: Any = getattr(module, "quant_method", None)
        if hasattr(method, "moe_kernel"):
            method.moe_kernel = None


def repack_tied_head(model: torch.nn.Module) -> None:
    """Refresh the output head's packed copy of tied embeddings.

    On CPUs each linear layer multiplies with a packed copy of its weight. A head that shares the input
    embedding receives no tensor of its own on a load, and would go on with the old copy, silently.
    """
    for module in model.modules():
        if isinstance(module, ParallelLMHead) and hasattr(module, "cpu_linear"):
            module.quant_method.process_weights_after_loading(module)
