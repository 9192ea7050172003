"""Low-rank adapters: linear layers whose frozen weight is corrected by a trained product of two thin matrices.

A layer keeps its weight under the name that it had, so nothing else has to know of adapters; and it owns the
three matrices itself, so that an engine which partitions weights gathers them together, adapters on or off.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from configs.schema.model import LoraConfig
from trainers.adapter_names import check_projections, is_adapted
from trainers.zero.engine import ZeroEngine


class LoraLinear(nn.Module):
    """x W^T + scaling * dropout(x) A^T B^T, of which A [rank, in] and B [out, rank] are trained. arXiv:2106.09685"""

    def __init__(self, linear: nn.Linear, config: LoraConfig) -> None:
        """B starts at zero: the layer is the linear that it replaces, to the bit."""
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        start = self.weight.new_empty(config.rank, linear.in_features, dtype=torch.float32)
        nn.init.kaiming_uniform_(start, a=math.sqrt(5))  # the range that nn.Linear gives a new weight
        self.lora_A = nn.Parameter(start.to(self.weight.dtype))
        self.lora_B = nn.Parameter(self.weight.new_zeros(linear.out_features, config.rank))
        self.dropout = nn.Dropout(config.dropout)
        self.scaling = config.scaling
        self.is_on = True

    def forward(self, input: Tensor) -> Tensor:
        """The linear of the input, corrected while the adapter is on."""
        output = F.linear(input, self.weight, self.bias)
        if not self.is_on:
            return output
        return output + self.scaling * F.linear(F.linear(self.dropout(input), self.lora_A), self.lora_B)

    def merge(self, weight: Tensor, lora_A: Tensor, lora_B: Tensor) -> Tensor:
        """W + scaling * B A, in W's dtype and rounded once. Takes the matrices, which the layer may hold a part of."""
        product = lora_B.float() @ lora_A.float()
        return product.mul_(self.scaling).add_(weight).to(weight.dtype)


def add_adapters(causal_lm: PreTrainedModel, config: LoraConfig, *, seed: int) -> None:
    """Freeze the model and give its layers adapters, drawn from the seed. ValueError if it lacks some projection."""
    causal_lm.requires_grad_(False)
    chosen = {
        name: module
        for name, module in causal_lm.named_modules()
        if isinstance(module, nn.Linear) and is_adapted(name, config)
    }
    check_projections({name.rpartition(".")[2] for name in chosen}, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, linear in chosen.items():
            causal_lm.set_submodule(name, LoraLinear(linear, config))


def adapted_layers(module: nn.Module) -> Mapping[str, LoraLinear]:
    """All layers with an adapter, by name."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, LoraLinear)}


@contextmanager
def adapters_off(module: nn.Module) -> Iterator[None]:
    """Inside, the model is what it was before it got adapters."""
    layers = adapted_layers(module).values()
    for layer in layers:
        layer.is_on = False
    try:
        yield
    finally:
        for layer in layers:
            layer.is_on = True


class UnadaptedModel:
    """The model of an engine without its adapters: a reference that takes no memory."""

    def __init__(self, engine: ZeroEngine) -> None:
        self._engine = engine

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The forward pass, without gradients."""
        with self._engine.inference(), adapters_off(self._engine.module):
            return self._engine(*args, **kwargs)
