from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.actors.tiny_policies import load_policy, make_policy
from trainers import attention
from trainers.attention import Spread, spreading
from trainers.model import PolicyModel, place
from trainers.packed import Packed, pack_tokens
from trainers.prefixes import distinct_tokens

SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=12)


@given(SEQUENCES)
def test_tokens_are_one_where_all_before_them_are_alike(sequences: list[list[int]]) -> None:
    tokens = np.concatenate([np.asarray(each, dtype=np.int32) for each in sequences])
    places, ids = distinct_tokens(tokens, [len(each) for each in sequences])
    beginnings = [tuple(each[: end + 1]) for each in sequences for end in range(len(each))]
    assert len(places) == len(set(beginnings))
    assert [beginnings[places[index]] for index in ids] == beginnings
    assert sorted(places) == list(places)


def group(prompt: list[int], *responses: list[int]) -> list[list[int]]:
    return [prompt + response for response in responses]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PolicyModel:
    folder = tmp_path_factory.mktemp("policy")
    make_policy(folder)
    policy = load_policy(folder)
    place(policy, torch.device("cpu"))
    return PolicyModel(policy)


def apart(packed: Packed) -> Packed:
    """The same pack, in which every token counts as distinct."""
    every = torch.arange(packed.num_tokens)
    return replace(packed, distinct=every, distinct_ids=every)


def scores_and_gradients(model: PolicyModel, packed: Packed) -> tuple[Tensor, Tensor, list[Tensor]]:
    model = deepcopy(model)
    logprobs, entropies = model(packed)
    weights = torch.linspace(-1, 1, packed.num_tokens)  # what is shared has other advantages in each sequence
    (logprobs * weights + 0.1 * entropies * weights.flip(0)).sum().backward()
    return logprobs.detach(), entropies.detach(), [p.grad for p in model.parameters() if p.grad is not None]


def test_sharing_changes_neither_scores_nor_gradients(model: PolicyModel) -> None:
    sequences = group([5, 6, 7, 8, 9], [1, 2, 3], [1, 2, 4, 4], [2], [1, 2, 3], [1, 2, 3, 5, 6, 7])
    sequences += [*group([5, 6, 1], [3, 3], [3, 4]), [9, 9]]
    packed = pack_tokens(sequences)
    assert packed.num_computed < 0.6 * packed.num_tokens
    found, expected = scores_and_gradients(model, packed), scores_and_gradients(model, apart(packed))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_body_sees_distinct_tokens_only(model: PolicyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = pack_tokens(group([5, 6, 7], [1, 2], [1, 3], [4]))
    seen = []
    forward = model.causal_lm.base_model.forward
    monkeypatch.setattr(
        model.causal_lm.base_model, "forward", lambda **inputs: seen.append(inputs["input_ids"]) or forward(**inputs)
    )
    model(packed)
    assert [tokens.numel() for tokens in seen] == [7] == [packed.num_computed]


def test_any_attention_can_be_given_every_sequence_and_its_equal_results_are_kept_once() -> None:
    packed = pack_tokens(group([5, 6, 7], [1, 2], [1, 3], [4]))
    spread = Spread(ids=packed.distinct_ids, places=packed.distinct)
    query, key, value = (torch.randn(1, heads, packed.num_computed, 8) for heads in (4, 2, 2))
    segments = attention.plan_segments(packed.lengths, torch.device("cpu"), spread)
    expected = attention.attend_segments(nn.Identity(), query, key, value, None, segments=segments)[0]
    every = attention.plan_segments(packed.lengths, torch.device("cpu"))
    found = spreading(attention.attend_segments)(nn.Identity(), query, key, value, None, spread=spread, segments=every)[
        0
    ]
    torch.testing.assert_close(found, expected)
