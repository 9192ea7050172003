"""Parameter counts from config.json alone, against those of transformers itself."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from cluster.plan_sizes import read_sizes, sizes_of
from configs.schema import LoraConfig, ModelConfig, NewModelConfig
from configs.schema.model import Architecture
from trainers.lora import add_adapters
from trainers.model import SpecialTokens, new_model

QWEN2: dict[str, Any] = {"model_type": "qwen2", "vocab_size": 151936, "tie_word_embeddings": False}
LLAMA: dict[str, Any] = {"model_type": "llama", "vocab_size": 128256, "tie_word_embeddings": False}


def config(base: dict[str, Any], hidden: int, intermediate: int, layers: int, heads: int, kv: int, **more: Any) -> Any:
    return base | {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        **more,
    }


QWEN3: dict[str, Any] = QWEN2 | {"model_type": "qwen3", "head_dim": 128, "attention_bias": False}
MOE: dict[str, Any] = QWEN3 | {
    "model_type": "qwen3_moe",
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}

PUBLISHED: dict[str, dict[str, Any]] = {
    "Qwen2.5-0.5B": config(QWEN2, 896, 4864, 24, 14, 2, tie_word_embeddings=True),
    "Qwen2.5-7B": config(QWEN2, 3584, 18944, 28, 28, 4, vocab_size=152064),
    "Qwen2.5-32B": config(QWEN2, 5120, 27648, 64, 40, 8, vocab_size=152064),
    "Qwen3-8B": config(QWEN3, 4096, 12288, 36, 32, 8),
    "Qwen3-30B-A3B": config(MOE, 2048, 6144, 48, 32, 4),
    "Llama-3.1-8B": config(LLAMA, 4096, 14336, 32, 32, 8),
    "Llama-3.1-70B": config(LLAMA, 8192, 28672, 80, 64, 8),
}


def counted(config: dict[str, Any]) -> int:
    described = AutoConfig.for_model(**config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(described)
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_as_many_parameters_as_transformers_counts(name: str) -> None:
    assert sizes_of(PUBLISHED[name], name).num_parameters == counted(PUBLISHED[name])


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
        {"model_type": "qwen3", "attention_bias": True, "tie_word_embeddings": True},
        {"model_type": "qwen3_moe", "mlp_only_layers": [1], "decoder_sparse_step": 2},
    ],
)
def test_biases_and_mixed_layers_are_counted(changes: dict[str, Any]) -> None:
    small = config(MOE, 64, 96, 4, 4, 2, head_dim=16, num_experts=6) | changes
    if changes["model_type"] != "qwen3_moe":
        small = {key: value for key, value in small.items() if "expert" not in key and "mlp_only" not in key}
    assert sizes_of(small, "here").num_parameters == counted(small)


def test_a_mixture_routes_tokens_to_a_tenth_of_its_weights() -> None:
    sizes = sizes_of(PUBLISHED["Qwen3-30B-A3B"], "here")
    assert (round(sizes.num_parameters / 1e9, 1), round(sizes.num_active_parameters / 1e9, 1)) == (30.5, 3.0)


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "llama", "qwen3_moe"])
def test_new_models_and_their_adapters_are_counted(architecture: Architecture) -> None:
    new = NewModelConfig(architecture=architecture)
    sizes = read_sizes(ModelConfig(new=new))
    tokens = SpecialTokens(bos=None, eos=1, pad=0)
    model = new_model(new, vocab_size=sizes.vocab_size, seed=0, tokens=tokens, dtype="float32")
    assert sizes.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    lora = LoraConfig(rank=4)
    add_adapters(model, lora, seed=0)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert sizes.adapter_parameters(lora) == trained


def test_the_cache_of_a_token_is_its_keys_and_values_in_all_layers() -> None:
    assert sizes_of(PUBLISHED["Qwen2.5-7B"], "here").cache_bytes(2) == 2 * 28 * 4 * 128 * 2


def test_a_folder_without_config_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.path=.*: no config.json there, .*its weights are not needed"):
        read_sizes(ModelConfig(path=str(tmp_path)))


def test_an_architecture_that_cant_be_counted_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3"}))
    with pytest.raises(ValueError, match=r"model_type='gemma3' can't be planned; choose one of qwen3, llama"):
        read_sizes(ModelConfig(path=str(tmp_path)))
