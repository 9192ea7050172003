"""Floating-point operations of a training pass, and what devices can do at best."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from experience.records import MiniBatch
from trainers.model import PolicyModel

BACKWARD_PASSES = 2  # a backward pass costs as much as so many forward ones (PaLM, arXiv:2204.02311, appendix B)

# Dense peaks in FLOP/s by a part of the device's name, from the makers' data sheets (no sparsity).
# Longer names first: "H100 PCIe" must not be read as "H100".
_PEAKS_BFLOAT16: Mapping[str, float] = {
    "GB200": 2.5e15,
    "B200": 2.25e15,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H200": 989e12,
    "H100": 989e12,
    "H20": 148e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10G": 70e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}


def peak_flops(device_name: str) -> float | None:
    """bfloat16 peak of a CUDA device by `torch.cuda.get_device_name()`; None for a CPU or an unknown device."""
    return next((peak for name, peak in _PEAKS_BFLOAT16.items() if name in device_name), None)


def pass_flops(module: nn.Module, mini_batches: Iterable[MiniBatch]) -> float:
    """One forward pass of the model over this rank's part of the mini-batches.

    Heads other than a language model's cost nothing to speak of.
    """
    items = [item for batch in mini_batches for micro_batch in batch.ranks[0] for item in micro_batch]
    config = next(part.config for part in module.modules() if isinstance(part, PreTrainedModel))
    num_scored = sum(item.num_loss_tokens for item in items) if isinstance(module, PolicyModel) else 0
    return forward_flops(config, [item.num_tokens for item in items], num_scored)


def forward_flops(config: Any, lengths: Sequence[int], num_loss_tokens: int) -> float:
    """Two operations for each weight that a token meets, and causal attention within the sequences.

    `config`: the model's transformers config; `lengths`: tokens of each sequence; the head runs on
    `num_loss_tokens` only.
    """
    attended = sum(length * (length + 1) // 2 for length in lengths)  # pairs of query and key
    layers = config.num_hidden_layers
    projections = 2 * layers * _layer_weights(config) * sum(lengths)
    attention = 2 * layers * 2 * config.num_attention_heads * _head_size(config) * attended
    head = 2 * config.vocab_size * config.hidden_size * num_loss_tokens
    return float(projections + attention + head)


def _layer_weights(config: Any) -> int:
    """Weights of a layer that one token is multiplied with."""
    heads_size = config.num_attention_heads * _head_size(config)
    kv_size = config.num_key_value_heads * _head_size(config)
    attention = config.hidden_size * (2 * heads_size + 2 * kv_size)
    return attention + _feed_forward_weights(config)


def _feed_forward_weights(config: Any) -> int:
    """Gate, up and down; in a mixture of experts those of the chosen ones, and the router."""
    num_experts = getattr(config, "num_experts", None)
    if num_experts is None:
        return 3 * config.hidden_size * config.intermediate_size
    chosen = config.num_experts_per_tok * 3 * config.hidden_size * config.moe_intermediate_size
    return chosen + config.hidden_size * num_experts


def _head_size(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
