"""A model whose tokens several ranks share, against the same model alone."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch import distributed as dist

from algorithms.aggregation import LossTotals
from algorithms.objective import LossInputs, LossOutput, policy_loss
from algorithms.table import resolve
from configs.schema import NewModelConfig
from configs.schema.algorithm import AlgorithmConfig
from tests.trainers.ranks import run_on_ranks
from trainers.attention import attention_arguments
from trainers.model import PolicyModel, SpecialTokens, enable_checkpointing, new_model
from trainers.model_files import check_heads
from trainers.packed import Packed, pack, pack_tokens
from trainers.parallel import ALONE, Layout, join_layout

VOCAB_SIZE = 37
LENGTHS = [5, 30, 2, 11, 7, 19, 3]  # 77 tokens: no number of ranks divides them, and every cut is inside a sequence
CASES: Mapping[str, Mapping[str, Any]] = {
    "grpo": {},
    "gspo": {"algorithm": "gspo"},
    "fewer key-value heads than ranks": {"num_kv_heads": 1},
    "three key-value heads": {"num_heads": 12, "num_kv_heads": 3, "hidden_size": 48},
    "llama": {"architecture": "llama"},
    "mixture of experts": {"architecture": "qwen3_moe", "num_experts": 4},
    "gradient checkpointing": {"checkpointing": True},
    "empty": {"lengths": []},
    "fewer tokens than ranks": {"lengths": [3]},
    "bfloat16": {"dtype": "bfloat16"},
}
SIZES = (2, 4)
TOLERANCES = {"bfloat16": 0.02}


def sequences(lengths: list[int]) -> Packed:
    random = np.random.default_rng(0)
    packed = (
        pack_tokens([random.integers(0, VOCAB_SIZE, size=length) for length in lengths]) if lengths else pack([], ())
    )
    generator = torch.Generator().manual_seed(1)
    mask = packed.response_mask & (torch.rand(packed.num_tokens, generator=generator) < 0.7)
    return replace(
        packed,
        response_mask=mask,
        advantages=torch.where(mask, torch.randn(packed.num_tokens, generator=generator), 0),
        rollout_logprobs=torch.where(mask, -3.5, 0.0),
    )


def loss_of(model: PolicyModel, packed: Packed, algorithm: str) -> LossOutput:
    """With old log-probs that make every ratio another one."""
    logprobs, entropies = model(packed, 0.8)
    shift = 0.3 * torch.sin(torch.arange(packed.num_tokens)) * packed.response_mask
    inputs = LossInputs(
        logprobs=logprobs,
        entropy=entropies,
        rollout_logprobs=packed.rollout_logprobs,
        advantages=packed.advantages,
        response_mask=packed.response_mask,
        sequence_ids=packed.sequence_ids,
        old_logprobs=packed.rollout_logprobs + shift,
        ref_logprobs=packed.rollout_logprobs - shift,
    )
    totals = LossTotals(num_loss_tokens=60, num_sequences=7, max_response_tokens=30)
    columns = {"name": algorithm, "kl_coef": 0.1, "kl_place": "loss", "entropy_coef": 0.01}
    return policy_loss(resolve(AlgorithmConfig.model_validate(columns)), inputs, totals)


def measure(layout: Layout, case: Mapping[str, Any]) -> tuple[float, list[Tensor]]:
    """The loss, and its gradient: the sum of those of the ranks that share the tokens."""
    options = {"num_heads": 4, "num_kv_heads": 2, "hidden_size": 32, "intermediate_size": 48, "num_layers": 2} | {
        key: value for key, value in case.items() if key in NewModelConfig.model_fields
    }
    tokens = SpecialTokens(bos=None, eos=1, pad=0)
    dtype = case.get("dtype", "float32")
    config = NewModelConfig(**options)
    model = PolicyModel(new_model(config, vocab_size=VOCAB_SIZE, seed=0, tokens=tokens, dtype=dtype))
    model.train()
    if case.get("checkpointing"):
        enable_checkpointing(model.causal_lm)
    packed = sequences(case.get("lengths", LENGTHS)).over(layout)
    output = loss_of(model, packed, case.get("algorithm", "grpo"))
    output.loss.backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    if layout.size > 1:
        for gradient in gradients:
            dist.all_reduce(gradient, group=layout.group)
    return float(output.loss.detach()), gradients  # type: ignore[return-value]


def differences() -> dict[tuple[int, str], tuple[float, float, float]]:
    """Of a shared model from the same alone: its loss, and its gradient relative to the gradient's norm."""
    layouts = {size: join_layout(size, 60) for size in SIZES}
    found = {}
    for name, case in CASES.items():
        loss, gradients = measure(ALONE, case)
        expected = torch.cat([gradient.flatten().float() for gradient in gradients])
        for size, layout in layouts.items():
            shared_loss, shared_gradients = measure(layout, case)
            shared = torch.cat([gradient.flatten().float() for gradient in shared_gradients])
            norm = float(expected.norm())
            found[size, name] = (abs(shared_loss - loss), float((shared - expected).norm()) / (norm or 1.0), norm)
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[tuple[int, str], tuple[float, float, float]]]:
    return run_on_ranks(4, differences, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", CASES)
def test_ranks_that_share_tokens_compute_what_one_computes(found: list[dict[Any, Any]], name: str, size: int) -> None:
    for of_rank in found:
        loss, gradient, norm = of_rank[size, name]
        assert loss < TOLERANCES.get(name, 1e-6)
        assert gradient < TOLERANCES.get(name, 1e-6)
        assert (norm > 0) == (name != "empty")


@pytest.mark.parametrize("num_tokens", [1, 7, 8])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_ranks_parts_are_all_tokens(num_tokens: int, size: int) -> None:
    values = torch.arange(1, num_tokens + 1)
    parts = [Layout(rank=rank, size=size).own(values) for rank in range(size)]
    assert len({len(part) for part in parts}) == 1
    assert torch.equal(torch.cat(parts)[:num_tokens], values)


def test_heads_that_do_not_divide_are_refused() -> None:
    check_heads(12, 4)
    with pytest.raises(
        ValueError, match=r"sequence_parallel_size=8: the model's 12 .* choose one of 1, 2, 3, 4, 6, 12"
    ):
        check_heads(12, 8)


def test_attention_that_can_not_be_shared_is_refused() -> None:
    packed = pack_tokens([[1, 2, 3]]).over(Layout(rank=0, size=2))
    with pytest.raises(ValueError, match=r"sequence_parallel_size=2 with attention 'sdpa': .* set .*size=1"):
        attention_arguments(packed, "sdpa")
