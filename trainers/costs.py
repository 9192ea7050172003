"""Floating-point operations of a forward pass, from a model's sizes alone. No torch."""

from collections.abc import Sequence
from typing import Any

BACKWARD_PASSES = 2  # a backward pass costs as much as so many forward ones (PaLM, arXiv:2204.02311, appendix B)


def forward_flops(config: Any, lengths: Sequence[int], num_loss_tokens: int, num_tokens: int | None = None) -> float:
    """Two operations for each weight that a token meets, and causal attention within the sequences.

    `config`: the model's transformers config; `lengths`: tokens of each sequence; the head runs on
    `num_loss_tokens` only, the layers on `num_tokens`, those that sequences share counted once; None: on all.
    """
    attended = sum(length * (length + 1) // 2 for length in lengths)  # pairs of query and key
    layers = config.num_hidden_layers
    projections = 2 * layers * _layer_weights(config) * (sum(lengths) if num_tokens is None else num_tokens)
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
