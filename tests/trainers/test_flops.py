import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from configs.schema import NewModelConfig
from configs.schema.model import Architecture
from experience.records import Item
from tests.trainers.test_packed import block
from trainers.costs import forward_flops
from trainers.devices import peak_flops
from trainers.flops import pass_flops
from trainers.model import PolicyModel, SpecialTokens, new_model
from trainers.passes import Packs
from trainers.value_model import value_model

TOKENS = SpecialTokens(bos=None, eos=1, pad=0)


@pytest.mark.parametrize("architecture", ["qwen3", "llama", "qwen2"])
def test_dense_models_need_what_torch_counts(architecture: Architecture) -> None:
    config = NewModelConfig(architecture=architecture, hidden_size=32, intermediate_size=48, num_layers=2)
    model = new_model(config, vocab_size=50, seed=0, tokens=TOKENS, dtype="float32")
    model.set_attn_implementation("eager")
    length = 24
    with FlopCounterMode(display=False) as counter:
        model(torch.ones(1, length, dtype=torch.int64), use_cache=False)
    # Eager attention also multiplies the half that causality then masks: four operations a pair and head channel.
    num_masked = length * length - length * (length + 1) // 2
    masked = 4 * config.num_layers * config.hidden_size * num_masked
    assert forward_flops(model.config, [length], length) + masked == counter.get_total_flops()


def test_a_mixture_counts_only_the_chosen_experts() -> None:
    def flops(num_experts: int, num_chosen: int) -> float:
        config = NewModelConfig(
            architecture="qwen3_moe", hidden_size=32, num_experts=num_experts, num_experts_per_token=num_chosen
        )
        model = new_model(config, vocab_size=50, seed=0, tokens=TOKENS, dtype="float32")
        return forward_flops(model.config, [10], 10)

    expert = 2 * 4 * 10 * 3 * 32 * 512  # layers, tokens, three matrices
    assert flops(8, 3) - flops(8, 2) == expert
    assert flops(9, 2) - flops(8, 2) == 2 * 4 * 10 * 32  # the router's row


def test_packing_counts_attention_within_sequences_only() -> None:
    model = new_model(NewModelConfig(), vocab_size=50, seed=0, tokens=TOKENS, dtype="float32")
    apart = forward_flops(model.config, [3], 3) + forward_flops(model.config, [5], 5)
    assert forward_flops(model.config, [3, 5], 8) == apart


def test_peaks_are_known_by_the_devices_name() -> None:
    assert peak_flops("NVIDIA H200") == 989e12
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("NVIDIA GB200") == 2.5e15
    assert peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_flops("cpu") is None


def test_a_pass_counts_what_sequences_share_once_and_the_head_on_scored_tokens_only() -> None:
    causal_lm = new_model(NewModelConfig(), vocab_size=50, seed=0, tokens=TOKENS, dtype="float32")
    rows = block([1, 2, 3, 4, 5], [1, 2, 3, 7, 8, 9], [4, 2, 3, 4, 5, 6, 7])
    items = [Item(block=0, row=row, num_tokens=5 + row, num_loss_tokens=2 + row) for row in range(3)]
    micro_batches = [(items[0], items[1]), (items[2],), ()]
    expected = forward_flops(causal_lm.config, [5, 6, 7], 2 + 3 + 4, 5 + 3 + 7)
    policy, packs = PolicyModel(causal_lm), Packs([rows], torch.device("cpu"))
    assert pass_flops(policy, micro_batches, packs) == expected
    assert pass_flops(policy, micro_batches * 2, packs) == 2 * expected
    assert pass_flops(value_model(causal_lm), micro_batches, packs) == forward_flops(
        causal_lm.config, [5, 6, 7], 0, 5 + 3 + 7
    )
