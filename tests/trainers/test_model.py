from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from configs.schema import ModelConfig, NewModelConfig
from configs.schema.model import Architecture
from trainers.checkpoint_tensors import checkpoint_tensors
from trainers.model import (
    PolicyModel,
    SpecialTokens,
    check_packing,
    enable_checkpointing,
    load_model,
    new_model,
    place,
)
from trainers.packed import pack, pack_tokens

VOCAB_SIZE = 37
SEQUENCES = [[place * (row + 3) % VOCAB_SIZE for place in range(n)] for row, n in enumerate((6, 40, 2, 35))]
TOKENS = SpecialTokens(bos=None, eos=1, pad=0)


def tiny(architecture: Architecture = "qwen3", seed: int = 0, **options: Any) -> PolicyModel:
    config = NewModelConfig(
        architecture=architecture, hidden_size=32, intermediate_size=48, num_layers=2, num_experts=4, **options
    )
    return PolicyModel(new_model(config, vocab_size=VOCAB_SIZE, seed=seed, tokens=TOKENS, dtype="float32"))


def reference(model: PolicyModel, tokens: list[int], temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies of one sequence through transformers' own attention and logits."""
    model.causal_lm.set_attn_implementation("eager")
    logits = model.causal_lm(torch.tensor([tokens]), use_cache=False).logits[0, :-1]
    model.causal_lm.set_attn_implementation("segments")
    all_logprobs = (logits / temperature).log_softmax(-1)
    chosen = all_logprobs.gather(-1, torch.tensor(tokens)[1:, None]).squeeze(-1)
    entropies = -(all_logprobs.exp() * all_logprobs).sum(-1)
    return torch.cat([torch.zeros(1), chosen]), torch.cat([torch.zeros(1), entropies])


@pytest.mark.parametrize("architecture", ["qwen3", "llama", "qwen2", "qwen3_moe"])
def test_packed_scores_equal_those_of_each_sequence_alone(architecture: Architecture) -> None:
    model = tiny(architecture)
    logprobs, entropies = model(pack_tokens(SEQUENCES), temperature=0.7)
    alone = [reference(model, tokens, 0.7) for tokens in SEQUENCES]
    torch.testing.assert_close(logprobs, torch.cat([part for part, _ in alone]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropies, torch.cat([part for _, part in alone]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_gradients_equal_those_of_each_sequence_alone(tied: bool) -> None:
    model = tiny(tie_word_embeddings=tied)
    parameters = list(model.parameters())
    logprobs, entropies = model(pack_tokens(SEQUENCES))
    packed = torch.autograd.grad((logprobs + 0.1 * entropies).sum(), parameters)
    alone = [reference(model, tokens, 1.0) for tokens in SEQUENCES]
    expected = torch.autograd.grad(sum((a + 0.1 * b).sum() for a, b in alone), parameters)  # type: ignore[arg-type]
    torch.testing.assert_close(packed, expected, rtol=1e-4, atol=1e-5)


def test_checkpointing_changes_no_gradient() -> None:
    packed, plain, recomputing = pack_tokens(SEQUENCES), tiny(), tiny()
    enable_checkpointing(recomputing.causal_lm)
    for model in (plain, recomputing):
        model.train()
        model(packed)[0].sum().backward()
    for one, other in zip(plain.parameters(), recomputing.parameters(), strict=True):
        assert one.grad is not None
        assert torch.equal(one.grad, other.grad)  # type: ignore[arg-type]


def test_checkpointing_keeps_less_of_a_loaded_model(tmp_path: Path) -> None:
    tiny().causal_lm.save_pretrained(tmp_path)

    def kept(checkpointing: bool) -> int:
        model = PolicyModel(load_model(ModelConfig(path=str(tmp_path))))
        if checkpointing:
            enable_checkpointing(model.causal_lm)
        sizes: list[int] = []

        def pack_hook(tensor: Tensor) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack_hook, lambda tensor: tensor):
            model(pack_tokens(SEQUENCES))
        return sum(sizes)

    assert kept(checkpointing=True) < kept(checkpointing=False) / 2


def test_a_loaded_model_drops_nothing_whatever_its_config_says(tmp_path: Path) -> None:
    made = tiny().causal_lm
    made.config.attention_dropout = 0.5
    made.save_pretrained(tmp_path)
    loaded = load_model(ModelConfig(path=str(tmp_path)))
    assert loaded.config.attention_dropout == 0.5 and loaded.training
    model = PolicyModel(loaded)
    first, second = (model(pack_tokens(SEQUENCES))[0] for _ in range(2))
    assert torch.equal(first, second)


def test_only_response_positions_are_scored() -> None:
    packed = pack_tokens(SEQUENCES)
    chosen = packed.response_mask & (torch.arange(packed.num_tokens) % 3 == 0)
    some = replace(packed, response_mask=chosen)
    model = tiny()
    everywhere, _ = model(packed)
    logprobs, entropies = model(some)
    torch.testing.assert_close(logprobs, torch.where(chosen, everywhere, 0))
    assert bool(((entropies > 0) == chosen).all())


def test_a_dummy_reaches_every_parameter_with_a_zero_gradient() -> None:
    model = tiny()
    logprobs, entropies = model(pack([], ()))
    (logprobs.sum() + entropies.sum()).backward()
    assert logprobs.tolist() == [0.0, 0.0]
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("architecture", ["qwen3", "llama", "qwen2", "qwen3_moe"])
def test_packing_passes_its_check(architecture: Architecture) -> None:
    check_packing(tiny(architecture).pretrained)


def test_attention_that_mixes_sequences_fails_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    # transformers finds a pack's bounds in its positions; with positions that never restart it can't.
    model = tiny()
    model.causal_lm.set_attn_implementation("sdpa")
    body = model.causal_lm.base_model
    model_forward = body.forward

    def forward(**options: Tensor) -> object:
        positions = torch.arange(options["input_ids"].shape[1])[None]
        return model_forward(**options | {"position_ids": positions})

    monkeypatch.setattr(body, "forward", forward)
    with pytest.raises(RuntimeError, match="Qwen3ForCausalLM with attn_implementation='sdpa' mixes packed sequences"):
        check_packing(model.pretrained)


@pytest.mark.parametrize("implementation", ["segments", "eager"])
def test_a_cpu_gets_attention_by_segments(implementation: str) -> None:
    model = tiny().causal_lm
    model.set_attn_implementation(implementation)
    place(model, torch.device("cpu"))
    assert model.config._attn_implementation == "segments"


def test_a_new_model_depends_on_its_seed_alone() -> None:
    state = torch.get_rng_state()
    first, again, other = tiny(seed=1), tiny(seed=1), tiny(seed=2)
    assert torch.equal(state, torch.get_rng_state())
    for one, same in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, same)
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


def test_a_saved_model_loads_with_the_same_scores(tmp_path: Path) -> None:
    model, packed = tiny(seed=3), pack_tokens(SEQUENCES)
    model.causal_lm.save_pretrained(tmp_path)
    loaded = PolicyModel(load_model(ModelConfig(path=str(tmp_path))))
    assert torch.equal(loaded(packed)[0], model(packed)[0])


@pytest.mark.parametrize("architecture", ["qwen3", "llama", "qwen2", "qwen3_moe"])
def test_checkpoint_tensors_are_those_that_transformers_saves(tmp_path: Path, architecture: Architecture) -> None:
    model = tiny(architecture, tie_word_embeddings=False)
    model.causal_lm.save_pretrained(tmp_path)
    tensors = dict(checkpoint_tensors(model.named_parameters()))
    saved = load_file(tmp_path / "model.safetensors")
    assert tensors.keys() == saved.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in saved.items())


def test_a_checkpoint_without_some_weight_is_refused(tmp_path: Path) -> None:
    tiny().causal_lm.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"weights missing.*model\.layers\.1\.mlp\.up_proj\.weight"):
        load_model(ModelConfig(path=str(tmp_path)))


def test_the_config_of_a_new_model_names_its_architecture() -> None:
    model = new_model(
        NewModelConfig(), vocab_size=100, seed=0, tokens=SpecialTokens(bos=None, eos=1, pad=0), dtype="float32"
    )
    assert model.config.architectures == ["Qwen3ForCausalLM"]
