"""The names of adapters: which linear layers have one, and what its two matrices are called outside."""

import re
from collections.abc import Mapping
from typing import Any

from configs.schema.model import LoraConfig

_PREFIX = "base_model.model."  # what peft's files put before the names of the model
_LAYER = re.compile(r"(?:^|\.)(?:self_attn|mlp)\.(\w+)$")  # never `mlp.experts.3.up_proj`
_WEIGHT = ".weight"


def is_adapted(module_name: str, config: LoraConfig) -> bool:
    """Whether the layer of this name gets an adapter."""
    layer = _LAYER.search(module_name)
    return layer is not None and layer[1] in config.projections


def adapter_name(parameter_name: str) -> str:
    """What peft and vLLM call the matrix `model.layers.0.mlp.up_proj.lora_A`."""
    return f"{_PREFIX}{parameter_name}{_WEIGHT}"


def adapter_shapes(shapes: Mapping[str, tuple[int, ...]], config: LoraConfig) -> Mapping[str, tuple[int, ...]]:
    """Name -> shape of all matrices of an adapter for a model whose weights have these shapes.

    ValueError for a projection that this model has not.
    """
    layers = {
        name.removesuffix(_WEIGHT): shape
        for name, shape in shapes.items()
        if name.endswith(_WEIGHT) and is_adapted(name.removesuffix(_WEIGHT), config)
    }
    check_projections({name.rpartition(".")[2] for name in layers}, config)
    adapter = {}
    for name, (num_outputs, num_inputs) in layers.items():
        adapter[adapter_name(f"{name}.lora_A")] = (config.rank, num_inputs)
        adapter[adapter_name(f"{name}.lora_B")] = (num_outputs, config.rank)
    return adapter


def check_projections(found: set[str], config: LoraConfig) -> None:
    """ValueError unless each projection that was asked for is there, and at least one."""
    if missing := sorted(set(config.target_modules or ()) - found):
        raise ValueError(
            f"model.lora.target_modules: the model has no linear layer {', '.join(missing)} outside of routed experts, "
            f"which can't be adapted; it has {', '.join(sorted(found)) or 'none of the others either'}"
        )
    if not found:
        raise ValueError("model.lora: no attention or feed-forward layer has a name that is known; leave it out")


def peft_config(config: LoraConfig, projections: set[str], base: str | None) -> Mapping[str, Any]:
    """The content of peft's adapter_config.json. `base`: the model that the adapter belongs to."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": sorted(projections),
        "bias": "none",
        "inference_mode": True,
    }
