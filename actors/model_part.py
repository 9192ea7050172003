"""The part of the model that one device holds: how its weights are replaced, and tokens drawn from its logits."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from vllm.config import ModelConfig
from vllm.distributed import get_tp_group
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from actors.channel import Channel, fingerprint, flat_bytes, tensors_in
from actors.sampler import SeededSampler
from actors.weights import Bucket, checksum_of
from experience.records import Weights

SEED = "seed"  # where a request carries its own, in SamplingParams.extra_args


class ModelPart:
    """What vLLM's model runner of one device holds: the whole model, or its part where an engine has several."""

    def __init__(self, runner: Any, config: ModelConfig, *, use_gpu: bool) -> None:
        self._config = config
        self._use_gpu = use_gpu
        self._model: torch.nn.Module = runner.get_model()
        self._batch, self._requests = runner.input_batch, runner.requests
        if not use_gpu:
            spare_embedding_kernels(self._model)
        group = get_tp_group()
        self.place = group.rank_in_group  # among the parts
        # All parts see the same logits, but a GPU's cumulative sums may round otherwise each time: one part draws.
        agreed = group.broadcast if group.world_size > 1 else None
        runner.sampler.topk_topp_sampler = SeededSampler(self._rows, agreed)

    def load(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Replace all weights. Names, shapes and dtypes must have been checked: a failure leaves a broken model."""
        self.begin()
        self.take(tensors)
        self.finish()

    @torch.inference_mode()
    def begin(self) -> None:
        """From here to `finish` the model is none."""
        initialize_layerwise_reload(self._model)
        if not self._use_gpu:
            forget_expert_kernels(self._model)

    @torch.inference_mode()
    def take(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Keep what this part needs of some whole tensors."""
        self._model.load_weights(tensors)  # type: ignore[operator]

    @torch.inference_mode()
    def finish(self) -> None:
        """Every tensor was taken."""
        finalize_layerwise_reload(self._model, self._config)
        repack_tied_head(self._model)

    def receive(self, weights: Weights, channel: Channel | None) -> str:
        """`load` of what comes through the channel, bucket by bucket; the checksum over it.

        A bucket that is not what was offered is not loaded, nor any that follows; they are received all the same, since
        the other ends receive them.
        """
        assert channel is not None, "its process has not met the others"
        found: list[Bucket] = []
        for bucket in weights.handle:
            flat = channel.receive(flat_bytes(bucket.facts))
            found.append(replace(bucket, checksum=fingerprint(flat)))
            if found != list(weights.handle[: len(found)]):
                continue
            if len(found) == 1:
                self.begin()
            self.take(tensors_in(bucket.facts, flat))
        if found == list(weights.handle):
            self.finish()
        return checksum_of(found)

    def _rows(self) -> tuple[list[int], NDArray[np.integer]]:
        """Seed and number of tokens of each sequence of the batch under way."""
        ids = self._batch.req_ids
        seeds = [self._requests[id_].sampling_params.extra_args[SEED] for id_ in ids]
        return seeds, self._batch.num_tokens_no_spec[: len(ids)]


def forget_expert_kernels(model: torch.nn.Module) -> None:
    """Have the kernels of a mixture's experts made anew by the load that follows.

    On CPUs vLLM packs the experts' weights when it makes their kernel, and only then: a load under a kernel
    that is there leaves them unpacked, and the policy another one, silently.
    """
    for module in model.modules():
        method: Any = getattr(module, "quant_method", None)
        if hasattr(method, "moe_kernel"):
            method.moe_kernel = None


def spare_embedding_kernels(model: torch.nn.Module) -> None:
    """Have input embeddings keep no packed copy of themselves, where a head of its own makes the logits.

    On CPUs vLLM packs every embedding for a product that is the head's alone: at each load as long as the head takes,
    and as much memory.
    """
    embeddings = [module for module in model.modules() if isinstance(module, VocabParallelEmbedding)]
    if not any(isinstance(module, ParallelLMHead) for module in embeddings):
        return
    for module in embeddings:
        if not isinstance(module, ParallelLMHead) and hasattr(module, "cpu_linear"):
            del module.cpu_linear
            module.quant_method.process_weights_after_loading = lambda layer: None


def repack_tied_head(model: torch.nn.Module) -> None:
    """Refresh the output head's packed copy of tied embeddings.

    On CPUs each linear layer multiplies with a packed copy of its weight. A head that shares the input
    embedding receives no tensor of its own on a load, and would go on with the old copy, silently.
    """
    for module in model.modules():
        if isinstance(module, ParallelLMHead) and hasattr(module, "cpu_linear"):
            module.quant_method.process_weights_after_loading(module)
