"""A model's sizes, from its config.json alone: parameters, and what a token costs. No torch, no weights."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from configs.schema import ModelConfig
from configs.schema.model import Architecture, LoraConfig
from experience.tokenizer import CHARACTERS, SPECIAL_TOKENS

_LAYER_NORMS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSizes:
    """Sizes of a decoder, under the names that transformers gives them. `num_experts`: None for a dense model."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    tie_word_embeddings: bool
    attention_bias: bool = False
    mlp_bias: bool = False
    num_experts: int | None = None
    num_experts_per_tok: int = 0
    moe_intermediate_size: int = 0
    num_dense_layers: int = 0  # layers of a mixture that have no experts

    @property
    def query_size(self) -> int:
        """Numbers of a token's queries in one layer."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_value_size(self) -> int:
        """Numbers of a token's keys in one layer; its values are as many."""
        return self.num_key_value_heads * self.head_dim

    @property
    def has_head_norms(self) -> bool:
        """Whether queries and keys are normalised head by head, as in Qwen3."""
        return self.model_type.startswith("qwen3")

    @property
    def head_parameters(self) -> int:
        """Of the output head, also where it is the input embedding."""
        return self.vocab_size * self.hidden_size

    @property
    def num_parameters(self) -> int:
        """Of the whole model; tied embeddings count once."""
        embeddings = self.head_parameters * (1 if self.tie_word_embeddings else 2)
        return embeddings + self._layers(self.num_experts or 0) + self.hidden_size

    @property
    def num_active_parameters(self) -> int:
        """That one token meets: of a mixture's experts those that it is routed to; one embedding."""
        return self.head_parameters + self._layers(self.num_experts_per_tok) + self.hidden_size

    @property
    def layer_parameters(self) -> int:
        """Of the largest layer."""
        if self.num_experts is None:
            return self._attention_parameters + self._dense_parameters
        return self._attention_parameters + self._mixture_parameters(self.num_experts)

    def cache_bytes(self, bytes_per_number: int) -> int:
        """Of one token in the KV cache, over all layers."""
        return 2 * self.num_hidden_layers * self.key_value_size * bytes_per_number

    def adapter_parameters(self, lora: LoraConfig) -> int:
        """Of low-rank adapters: rank numbers for each input and each output of an adapted projection."""
        shapes = {
            "q_proj": (self.hidden_size, self.query_size),
            "k_proj": (self.hidden_size, self.key_value_size),
            "v_proj": (self.hidden_size, self.key_value_size),
            "o_proj": (self.query_size, self.hidden_size),
        }
        if self.num_experts is None:
            shapes |= dict.fromkeys(("gate_proj", "up_proj"), (self.hidden_size, self.intermediate_size))
            shapes["down_proj"] = (self.intermediate_size, self.hidden_size)
        return self.num_hidden_layers * lora.rank * sum(sum(shapes.get(name, ())) for name in lora.projections)

    def _layers(self, num_experts: int) -> int:
        num_mixtures = 0 if self.num_experts is None else self.num_hidden_layers - self.num_dense_layers
        return (
            self.num_hidden_layers * self._attention_parameters
            + (self.num_hidden_layers - num_mixtures) * self._dense_parameters
            + num_mixtures * self._mixture_parameters(num_experts)
        )

    @property
    def _attention_parameters(self) -> int:
        """With the layer's norms."""
        weights = self.hidden_size * (2 * self.query_size + 2 * self.key_value_size)
        norms = _LAYER_NORMS * self.hidden_size + (2 * self.head_dim if self.has_head_norms else 0)
        biases = self.query_size + 2 * self.key_value_size
        if self.model_type == "qwen2":  # its output projection never has a bias
            return weights + norms + biases
        return weights + norms + (biases + self.hidden_size if self.attention_bias else 0)

    @property
    def _dense_parameters(self) -> int:
        biases = 2 * self.intermediate_size + self.hidden_size if self.mlp_bias else 0
        return 3 * self.hidden_size * self.intermediate_size + biases

    def _mixture_parameters(self, num_experts: int) -> int:
        """Those of `num_experts` experts, and the router over all."""
        expert = 3 * self.hidden_size * self.moe_intermediate_size
        return num_experts * expert + self.hidden_size * (self.num_experts or 0)


def read_sizes(model: ModelConfig, key: str = "model") -> ModelSizes:
    """The sizes of `model`. ValueError where they can't be known: `key` is its section in the recipe."""
    if model.new is not None:
        return _sizes_of_new(model)
    assert model.path is not None
    return sizes_at(Path(model.path), f"{key}.path={model.path}")


def sizes_at(folder: Path, where: str) -> ModelSizes:
    """The sizes that `folder`/config.json tells. ValueError begins with `where`."""
    file = folder / "config.json"
    if not file.is_file():
        raise ValueError(
            f"{where}: no config.json there, and a plan needs the model's sizes; name a folder that holds "
            "the model's config.json (its weights are not needed)"
        )
    return sizes_of(json.loads(file.read_text()), where)


def sizes_of(config: Mapping[str, Any], where: str) -> ModelSizes:
    """The sizes that the contents of a config.json tell; keys that it leaves out are transformers' defaults."""
    kind = config.get("model_type", "")
    if kind not in get_args(Architecture):
        raise ValueError(
            f"{where}: model_type={kind!r} can't be planned; choose one of {', '.join(get_args(Architecture))}"
        )
    try:
        return _sizes_of(kind, config)
    except KeyError as error:
        raise ValueError(f"{where}: config.json says nothing of {error}") from None


def _sizes_of(kind: str, config: Mapping[str, Any]) -> ModelSizes:
    heads = config["num_attention_heads"]
    return ModelSizes(
        model_type=kind,
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_hidden_layers=config["num_hidden_layers"],
        num_attention_heads=heads,
        num_key_value_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or (128 if kind == "qwen3" else config["hidden_size"] // heads),
        tie_word_embeddings=config.get("tie_word_embeddings", False),
        attention_bias=config.get("attention_bias", False),
        mlp_bias=config.get("mlp_bias", False),
        **(_expert_sizes(config) if kind == "qwen3_moe" else {}),
    )


def _expert_sizes(config: Mapping[str, Any]) -> dict[str, int]:
    step = config.get("decoder_sparse_step", 1)
    dense = set(config.get("mlp_only_layers") or ())
    dense |= {layer for layer in range(config["num_hidden_layers"]) if (layer + 1) % step}
    return {
        "num_experts": config["num_experts"],
        "num_experts_per_tok": config["num_experts_per_tok"],
        "moe_intermediate_size": config["moe_intermediate_size"],
        "num_dense_layers": len(dense),
    }


def _sizes_of_new(model: ModelConfig) -> ModelSizes:
    new = model.new
    assert new is not None
    vocab_size = new.tokenizer.vocab_size if new.tokenizer.kind == "bpe" else len(SPECIAL_TOKENS) + len(CHARACTERS)
    return _sizes_of(
        new.architecture,
        {
            "vocab_size": vocab_size,
            "hidden_size": new.hidden_size,
            "intermediate_size": new.intermediate_size,
            "num_hidden_layers": new.num_layers,
            "num_attention_heads": new.num_heads,
            "num_key_value_heads": new.num_kv_heads,
            "head_dim": new.hidden_size // new.num_heads,
            "tie_word_embeddings": new.tie_word_embeddings,
            "num_experts": new.num_experts,
            "num_experts_per_tok": new.num_experts_per_token,
            "moe_intermediate_size": new.intermediate_size,
        },
    )
