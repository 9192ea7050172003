"""Adapters against peft, which computes them in layers of its own."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig as PeftConfig
from peft import PeftModel, get_peft_model
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from configs.schema import LoraConfig, ModelConfig, NewModelConfig, Run
from configs.schema.model import Architecture
from trainers.adapter_names import adapter_name, adapter_shapes, peft_config
from trainers.export import write_adapter
from trainers.lora import LoraLinear, adapted_layers, adapters_off, add_adapters
from trainers.model import PolicyModel, SpecialTokens, enable_checkpointing, new_model
from trainers.model_files import check_model
from trainers.packed import pack_tokens

VOCAB_SIZE = 37
SEQUENCES = [[place * (row + 3) % VOCAB_SIZE for place in range(n)] for row, n in enumerate((6, 40, 2, 35))]
CONFIG = LoraConfig(rank=3, alpha=12)
DENSE: tuple[Architecture, ...] = ("qwen3", "qwen2", "llama")


def base(architecture: Architecture = "qwen3") -> PreTrainedModel:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_layers": 2, "num_experts": 4}
    config = NewModelConfig.model_validate({"architecture": architecture, **sizes})
    tokens = SpecialTokens(bos=None, eos=1, pad=0)
    return new_model(config, vocab_size=VOCAB_SIZE, seed=0, tokens=tokens, dtype="float32")


def adapted(architecture: Architecture = "qwen3", config: LoraConfig = CONFIG) -> PolicyModel:
    """A model whose adapters have learned something: B is not zero."""
    model = PolicyModel(base(architecture))
    add_adapters(model.causal_lm, config, seed=5)
    torch.manual_seed(6)
    for layer in adapted_layers(model).values():
        torch.nn.init.normal_(layer.lora_B, std=0.2)
    return model


def matrices(model: PolicyModel) -> dict[str, Tensor]:
    """A and B of all layers, by peft's names."""
    return {adapter_name(name): value for name, value in model.causal_lm.named_parameters() if ".lora_" in name}


def save_adapter(model: PolicyModel, folder: Path, config: LoraConfig = CONFIG) -> Path:
    projections = {name.rpartition(".")[2] for name in adapted_layers(model)}
    write_adapter([list(matrices(model).items())], peft_config(config, projections, None), folder)
    return folder


def peft_logprobs(model: Any, tokens: list[int]) -> Tensor:
    """[T - 1], of one sequence through transformers' own attention."""
    logits = model(torch.tensor([tokens]), use_cache=False).logits[0, :-1]
    return logits.log_softmax(-1).gather(-1, torch.tensor(tokens)[1:, None]).squeeze(-1)


def peft_twin(model: PolicyModel, folder: Path, architecture: Architecture) -> Any:
    causal_lm = base(architecture)
    causal_lm.set_attn_implementation("eager")
    return PeftModel.from_pretrained(causal_lm, str(save_adapter(model, folder)), is_trainable=True)


@pytest.mark.parametrize("architecture", [*DENSE, "qwen3_moe"])
def test_scores_and_gradients_equal_those_of_peft(architecture: Architecture, tmp_path: Path) -> None:
    # In float64 where the experts allow it; transformers' norms stay in float32, and leave 1e-6 of a gradient.
    dtype, tolerance = (torch.float32, 2e-5) if architecture == "qwen3_moe" else (torch.float64, 5e-6)
    model = adapted(architecture).to(dtype)
    logprobs, _ = model(pack_tokens(SEQUENCES))
    (logprobs**2).sum().backward()
    twin = peft_twin(model, tmp_path / "adapter", architecture).to(dtype)
    expected = [peft_logprobs(twin, tokens) for tokens in SEQUENCES]
    torch.testing.assert_close(logprobs[logprobs != 0], torch.cat(expected), rtol=1e-6, atol=tolerance)
    sum((part**2).sum() for part in expected).backward()  # type: ignore[union-attr]
    theirs = {name.replace(".default", ""): value for name, value in twin.named_parameters() if value.requires_grad}
    ours = matrices(model)
    assert ours.keys() == theirs.keys()
    for name, matrix in ours.items():
        assert matrix.grad is not None and theirs[name].grad is not None
        difference = (matrix.grad - theirs[name].grad).norm() / theirs[name].grad.norm()
        assert difference < tolerance, name


def test_only_the_adapters_are_trained() -> None:
    model = adapted()
    assert {name for name, value in model.named_parameters() if value.requires_grad} == {
        f"{name}.{part}" for name in adapted_layers(model) for part in ("lora_A", "lora_B")
    }


def test_a_model_with_new_adapters_is_the_model_without_them() -> None:
    packed, plain, model = pack_tokens(SEQUENCES), PolicyModel(base()), PolicyModel(base())
    add_adapters(model.causal_lm, CONFIG, seed=5)
    assert torch.equal(model(packed)[0], plain(packed)[0])


def test_switched_off_adapters_leave_exactly_the_base_model() -> None:
    packed, model = pack_tokens(SEQUENCES), adapted()
    with_adapters = model(packed)[0]
    with adapters_off(model):
        assert torch.equal(model(packed)[0], PolicyModel(base())(packed)[0])
    assert torch.equal(model(packed)[0], with_adapters)
    assert not torch.allclose(PolicyModel(base())(packed)[0], with_adapters)


@pytest.mark.parametrize("architecture", DENSE)
def test_merged_weights_equal_those_of_peft(architecture: Architecture, tmp_path: Path) -> None:
    model = adapted(architecture)
    merged = peft_twin(model, tmp_path / "adapter", architecture).merge_and_unload().state_dict()
    for name, layer in adapted_layers(model.causal_lm).items():
        weight = layer.merge(layer.weight, layer.lora_A, layer.lora_B)
        torch.testing.assert_close(weight, merged[f"{name}.weight"], rtol=1e-6, atol=1e-6)
        assert not torch.allclose(weight, layer.weight)


def test_adapters_depend_on_their_seed_alone() -> None:
    def first_matrix(seed: int) -> Tensor:
        model = base()
        add_adapters(model, CONFIG, seed=seed)
        return next(iter(adapted_layers(model).values())).lora_A

    state = torch.get_rng_state()
    first, again, other = first_matrix(1), first_matrix(1), first_matrix(2)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_new_adapters_have_the_shapes_and_the_spread_of_pefts() -> None:
    ours, theirs = base(), base()
    add_adapters(ours, replace_rank(16), seed=0)
    twin = get_peft_model(theirs, PeftConfig(r=16, lora_alpha=32, target_modules="all-linear"))
    expected = {name.replace(".default", ""): value for name, value in twin.named_parameters() if value.requires_grad}
    found = {adapter_name(name): value for name, value in ours.named_parameters() if value.requires_grad}
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.shape == expected[name].shape
        assert float(value.detach().std()) == pytest.approx(float(expected[name].detach().std()), rel=0.15, abs=1e-9)


def replace_rank(rank: int) -> LoraConfig:
    return LoraConfig(rank=rank, alpha=2 * rank)


def test_dropout_acts_in_training_only_and_on_the_adapter_only() -> None:
    config = LoraConfig(rank=3, alpha=12, dropout=0.5)
    layer = LoraLinear(torch.nn.Linear(8, 4), config)
    torch.nn.init.ones_(layer.lora_B)
    input = torch.ones(5, 8)
    plain = layer.eval()(input)
    layer.train()
    assert not torch.equal(layer(input), plain)
    layer.is_on = False
    assert torch.equal(layer(input), torch.nn.functional.linear(input, layer.weight, layer.bias))


def test_checkpointing_changes_no_gradient() -> None:
    packed, plain, recomputing = pack_tokens(SEQUENCES), adapted(), adapted()
    enable_checkpointing(recomputing.causal_lm)
    for model in (plain, recomputing):
        model.train()
        model(packed)[0].sum().backward()
    for one, other in zip(matrices(plain).values(), matrices(recomputing).values(), strict=True):
        assert one.grad is not None and one.grad.any()
        assert torch.equal(one.grad, other.grad)  # type: ignore[arg-type]


def test_a_merge_in_bfloat16_is_rounded_once() -> None:
    layer = LoraLinear(torch.nn.Linear(64, 64, dtype=torch.bfloat16), CONFIG)
    torch.nn.init.normal_(layer.lora_B, std=0.01)
    exact = layer.weight.double() + 4 * (layer.lora_B.double() @ layer.lora_A.double())
    merged = layer.merge(layer.weight, layer.lora_A, layer.lora_B)
    assert merged.dtype == torch.bfloat16
    assert (merged != exact.bfloat16()).float().mean() < 1e-3  # float32 sums may fall on the other side of a tie


def test_the_shapes_of_an_adapter_follow_from_those_of_the_model() -> None:
    for architecture in (*DENSE, "qwen3_moe"):
        shapes = {name: tuple(value.shape) for name, value in base(architecture).named_parameters()}  # type: ignore[arg-type]
        model = adapted(architecture)  # type: ignore[arg-type]
        expected = {name: tuple(value.shape) for name, value in matrices(model).items()}
        assert adapter_shapes(shapes, CONFIG) == expected


def test_experts_of_a_checkpoint_are_not_taken_for_dense_layers() -> None:
    shapes = {"model.layers.0.mlp.experts.3.up_proj.weight": (8, 4), "model.layers.0.self_attn.q_proj.weight": (4, 4)}
    assert list(adapter_shapes(shapes, CONFIG)) == [
        f"base_model.model.model.layers.0.self_attn.q_proj.lora_{part}.weight" for part in "AB"
    ]


def test_a_projection_that_the_model_has_not_is_refused() -> None:
    config = LoraConfig(target_modules=("q_proj", "up_proj"))
    with pytest.raises(ValueError, match=r"no linear layer up_proj outside of routed experts.*; it has q_proj"):
        add_adapters(base("qwen3_moe"), config, seed=0)
    with pytest.raises(ValueError, match=r"no attention or feed-forward layer has a name that is known"):
        adapter_shapes({"transformer.h.0.c_attn.weight": (4, 4)}, CONFIG)


def test_a_projection_that_the_checkpoint_has_not_is_found_before_anything_is_loaded(tmp_path: Path) -> None:
    base().save_pretrained(tmp_path)
    save_file({"model.layers.0.self_attn.q_proj.weight": torch.zeros(4, 4)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"no linear layer o_proj .*; it has q_proj"):
        check_model(ModelConfig(path=str(tmp_path), lora=LoraConfig(target_modules=("q_proj", "o_proj"))))


def test_a_choice_of_projections_is_obeyed() -> None:
    model = adapted(config=LoraConfig(target_modules=("q_proj", "down_proj")))
    assert {name.rpartition(".")[2] for name in adapted_layers(model)} == {"q_proj", "down_proj"}


RL = {
    "stage": "rl",
    "name": "run",
    "num_steps": 1,
    "model": {"path": "policy", "lora": {}},
    "data": {"train": "prompts.jsonl"},
    "rewards": [{"use": "math"}],
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"path": "policy"}, "rollout": {"lora_sync": "adapter"}}, "without model.lora"),
        ({"algorithm": {"name": "grpo", "reference_refresh_steps": 5}}, "reference_refresh_steps=5 with model.lora"),
        ({"model": {"path": "policy", "lora": {"target_modules": []}}}, "adapts nothing"),
        ({"model": {"path": "policy", "lora": {"target_modules": ["lm_head"]}}}, "q_proj"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(Run).validate_python({**RL, **changes})


def test_peft_reads_the_description(tmp_path: Path) -> None:
    folder = save_adapter(adapted(), tmp_path / "adapter")
    read: Any = PeftConfig.from_pretrained(str(folder))
    written = json.loads((folder / "adapter_config.json").read_text())
    assert (read.r, read.lora_alpha, read.lora_dropout) == (3, 12, 0.0)
    assert set(read.target_modules) == set(written["target_modules"])
