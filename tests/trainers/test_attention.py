import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from trainers.attention import attend_segments, plan_segments

CPU = torch.device("cpu")


def attend_each(query: Tensor, key: Tensor, value: Tensor, lengths: list[int], scaling: float | None) -> Tensor:
    """The slow, obvious version: scores, an explicit causal mask and a softmax for each sequence; [1, T, H, D]."""
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    outputs = []
    parts = (states.squeeze(0).split(lengths, dim=1) for states in (query, key, value))
    for q, k, v in zip(*parts, strict=True):
        scores = q @ k.transpose(1, 2) * (q.shape[-1] ** -0.5 if scaling is None else scaling)
        future = torch.ones(q.shape[1], q.shape[1], dtype=torch.bool).triu(1)
        outputs.append(scores.masked_fill(future, float("-inf")).softmax(-1) @ v)
    return torch.cat(outputs, dim=1).transpose(0, 1).unsqueeze(0)


def states(lengths: list[int], num_heads: int, num_kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(sum(lengths))
    shapes = [(1, heads, sum(lengths), 8) for heads in (num_heads, num_kv_heads, num_kv_heads)]
    query, key, value = (torch.randn(shape, generator=generator).requires_grad_() for shape in shapes)
    return query, key, value


def attend(query: Tensor, key: Tensor, value: Tensor, lengths: list[int], **options: float | None) -> Tensor:
    segments = plan_segments(lengths, CPU)
    return attend_segments(nn.Identity(), query, key, value, None, segments=segments, **options)[0]  # type: ignore[arg-type]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.one_of(st.integers(1, 12), st.integers(30, 150)), min_size=1, max_size=12))
def test_every_sequence_attends_to_itself_alone(lengths: list[int]) -> None:
    query, key, value = states(lengths, num_heads=2, num_kv_heads=2)
    expected = attend_each(query, key, value, lengths, None)
    torch.testing.assert_close(attend(query, key, value, lengths), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scaling", [None, 0.05])
def test_gradients_equal_those_of_explicit_attention_with_grouped_heads(scaling: float | None) -> None:
    lengths = [5, 90, 3, 88, 40, 1]
    inputs = states(lengths, num_heads=4, num_kv_heads=2)
    upstream = torch.randn(1, sum(lengths), 4, 8, generator=torch.Generator().manual_seed(0))
    actual = torch.autograd.grad(attend(*inputs, lengths, scaling=scaling), inputs, upstream)
    expected = torch.autograd.grad(attend_each(*inputs, lengths, scaling), inputs, upstream)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_a_token_that_is_not_finite_stays_in_its_sequence() -> None:
    # Padding slots of the shorter rows borrow a real token's states: these must never reach another sequence.
    lengths = [20, 18, 5]
    query, key, value = states(lengths, num_heads=2, num_kv_heads=2)
    with torch.no_grad():
        value[:, :, 0] = float("nan")
        clean = attend(query, key, value, lengths)[:, 20:]
        assert clean.isfinite().all()


def test_similar_lengths_share_a_bucket_and_long_ones_stand_alone() -> None:
    segments = plan_segments([30, 400, 28, 32, 1000, 31], CPU)
    assert [bucket.num_sequences for bucket in segments.buckets] == [1, 1, 4]


def test_sequences_within_a_sliding_window_pass_and_longer_ones_are_refused() -> None:
    query, key, value = states([6, 9], num_heads=2, num_kv_heads=2)
    attend(query, key, value, [6, 9], sliding_window=9)
    with pytest.raises(ValueError, match="9 tokens is longer than the model's sliding_window=8"):
        attend(query, key, value, [6, 9], sliding_window=8)


def test_dense_attention_is_what_one_sequence_gets() -> None:
    query, key, value = states([17], num_heads=2, num_kv_heads=2)
    expected = F.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2)
    torch.testing.assert_close(attend(query, key, value, [17]), expected)
