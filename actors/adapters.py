"""The adapter of a sampling engine: vLLM's own LoRA layers, fed from memory.

vLLM would read each version from a folder. Its manager takes matrices as well, one level below, so a version
goes from the object store into the engine without a file in between.
"""

from collections.abc import Iterable
from typing import Any, get_args

import torch
from vllm.config import VllmConfig
from vllm.config.lora import MaxLoRARanks
from vllm.lora.lora_model import LoRAModel
from vllm.lora.peft_helper import PEFTHelper
from vllm.lora.request import LoRARequest

from configs.schema.model import LoraConfig

_ID = 1  # one engine, one adapter: every version takes the place of the one before
_NO_PATH = "held in memory"  # should vLLM ever look for a file, it finds none, and fails


def adapter_arguments(adapter: LoraConfig) -> dict[str, Any]:
    """Settings of an engine that computes such an adapter. Its rank is rounded up to one that vLLM has kernels for."""
    max_rank = next(rank for rank in get_args(MaxLoRARanks) if rank >= adapter.rank)
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": max_rank}


class EngineAdapter:
    """The place for the adapter in an engine's model runner."""

    def __init__(self, adapter: LoraConfig, runner: Any, config: VllmConfig) -> None:
        assert config.lora_config is not None, "the engine was started with adapter_arguments"
        self._description = PEFTHelper(
            r=adapter.rank, lora_alpha=adapter.alpha, target_modules=list(adapter.projections)
        )
        self._manager = runner.lora_manager._adapter_manager
        self._dtype: Any = config.lora_config.lora_dtype
        self.request: LoRARequest | None = None  # what a sequence asks for to be sampled with the adapter

    def load(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Replace the matrices. `tensors`: those of all layers, under peft's names."""
        # Copies, since vLLM multiplies B with the scaling in place, and these tensors are shared.
        owned = {name: tensor.clone() for name, tensor in tensors}
        model = LoRAModel.from_lora_tensors(_ID, owned, self._description, device="cpu", dtype=self._dtype)
        self._manager.remove_adapter(_ID)
        self._manager.add_adapter(model)
        self._manager.activate_adapter(_ID)
        self.request = LoRARequest(lora_name="policy", lora_int_id=_ID, lora_path=_NO_PATH)
