import math
from dataclasses import fields, replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.aggregation import LossTotals
from algorithms.algorithm import Algorithm
from algorithms.losses import LossTerms, importance_ratio
from algorithms.measures import finish, merge
from algorithms.objective import LossInputs, policy_loss
from algorithms.plugins import load_attribute
from algorithms.table import ALGORITHMS, find_row
from tests.algorithms.slow_objective import slow_policy_loss

MAX_RESPONSE_TOKENS = 6
AGGREGATIONS = ["token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "seq_mean_token_sum_norm"]
CORRECTIONS = ["none", "tis", "sequence_tis", "icepop", "mis", "sequence_mis", "geometric_mis"]
BARE = find_row("dr_grpo")  # clip 0.2, no KL


def random_inputs(seed: int, lengths: tuple[int, ...] = (5, 2, 7, 3), spread: float = 0.5) -> LossInputs:
    """Sequences with a prompt of one token, a masked token within, and one response of no token."""
    draw = torch.Generator().manual_seed(seed)
    num_tokens = sum(lengths)
    ids = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    mask = torch.rand(num_tokens, generator=draw) < 0.7
    mask[ids == 1] = False
    starts = torch.tensor([0, *lengths[:-1]]).cumsum(0)
    mask[starts] = False

    def column(scale: float = spread) -> torch.Tensor:
        return torch.randn(num_tokens, generator=draw, dtype=torch.float64) * scale

    logprobs = (column(1.0) - 2).requires_grad_()
    old = logprobs.detach() + column()
    return LossInputs(
        logprobs=logprobs,
        entropy=(logprobs * logprobs).detach(),
        rollout_logprobs=old + column(),
        advantages=column(1.0),
        response_mask=mask,
        sequence_ids=ids,
        old_logprobs=old,
        ref_logprobs=logprobs.detach() + column(),
    )


def totals_of(inputs: LossInputs) -> LossTotals:
    return LossTotals(
        num_loss_tokens=int(inputs.response_mask.sum()),
        num_sequences=int(inputs.sequence_ids.max()) + 1,
        max_response_tokens=MAX_RESPONSE_TOKENS,
    )


def select(inputs: LossInputs, numbers: list[int]) -> LossInputs:
    """The sequences `numbers`, in that order, renumbered; gradients flow back to `inputs`."""
    places = torch.cat([(inputs.sequence_ids == number).nonzero().flatten() for number in numbers])
    columns = {f.name: getattr(inputs, f.name) for f in fields(inputs)}
    chosen = {name: value[places] for name, value in columns.items() if value is not None}
    sizes = torch.tensor([int((inputs.sequence_ids == number).sum()) for number in numbers])
    chosen["sequence_ids"] = torch.repeat_interleave(torch.arange(len(numbers)), sizes)
    return LossInputs(**chosen)


def gradient_of(loss: torch.Tensor, inputs: LossInputs) -> torch.Tensor:
    (gradient,) = torch.autograd.grad(loss, inputs.logprobs, retain_graph=True)
    return gradient


def check_against_slow(row: Algorithm, inputs: LossInputs) -> None:
    fast = policy_loss(row, inputs, totals_of(inputs)).loss
    slow = slow_policy_loss(row, inputs, MAX_RESPONSE_TOKENS)
    torch.testing.assert_close(fast, slow, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(gradient_of(fast, inputs), gradient_of(slow, inputs), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
@pytest.mark.parametrize("seed", range(3))
def test_every_row_equals_the_slow_objective(name, seed):
    check_against_slow(find_row(name), random_inputs(seed))


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_every_row_equals_the_slow_objective_at_its_first_update(name):
    check_against_slow(find_row(name), replace(random_inputs(3), old_logprobs=None))


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("loss", ["clip", "cispo", "reinforce"])
def test_every_loss_goes_with_every_aggregation(aggregation, loss):
    check_against_slow(replace(BARE, aggregation=aggregation, loss=loss), random_inputs(4))


@pytest.mark.parametrize("correction", CORRECTIONS)
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_every_correction_equals_the_slow_objective(correction, level):
    row = replace(BARE, correction=correction, ratio_level=level)
    check_against_slow(row, random_inputs(5, spread=0.3))
    check_against_slow(replace(row, correction="none"), random_inputs(5, spread=0.3))


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_every_kl_estimator_in_the_loss_equals_the_slow_objective(estimator):
    check_against_slow(replace(BARE, kl_coef=0.3, kl_estimator=estimator), random_inputs(6))


def test_dual_clip_equals_the_slow_objective():
    inputs = random_inputs(7)
    inputs = replace(inputs, advantages=-inputs.advantages.abs(), old_logprobs=inputs.old_logprobs - 1)
    row = replace(BARE, dual_clip=3.0)
    check_against_slow(row, inputs)
    with_dual, without = (policy_loss(r, inputs, totals_of(inputs)).loss for r in (row, BARE))
    assert with_dual < without


def test_entropy_bonus_lowers_the_loss_and_carries_its_gradient():
    inputs = random_inputs(8)
    inputs = replace(inputs, entropy=inputs.logprobs * inputs.logprobs)
    check_against_slow(replace(BARE, entropy_coef=0.1), inputs)


def test_clip_by_hand():
    # The range is 0.8 to 1.2. Losses: clipped, too low to be clipped, clipped, inside.
    ratios, advantages = [1.5, 0.5, 0.5, 1.1], [1.0, 1.0, -1.0, 1.0]
    inputs = LossInputs(
        logprobs=torch.tensor(ratios).log(),
        entropy=torch.tensor([1.0, 2.0, 3.0, 6.0]),
        rollout_logprobs=torch.zeros(4),
        advantages=torch.tensor(advantages),
        response_mask=torch.ones(4, dtype=torch.bool),
        sequence_ids=torch.zeros(4, dtype=torch.int64),
        old_logprobs=torch.zeros(4),
    )
    output = policy_loss(replace(BARE, aggregation="seq_mean_token_sum"), inputs, totals_of(inputs))
    torch.testing.assert_close(output.loss, torch.tensor(-1.2 - 0.5 + 0.8 - 1.1))
    metrics = finish(output.metrics)
    assert metrics["policy/loss"] == pytest.approx(-2.0)
    assert metrics["policy/entropy"] == pytest.approx(3.0)
    assert metrics["policy/clip_fraction_low"] == pytest.approx(2 / 4)
    assert metrics["policy/clip_fraction_high"] == pytest.approx(1 / 4)
    assert metrics["policy/ratio_max"] == pytest.approx(1.5)
    assert metrics["policy/ratio_mean"] == pytest.approx(3.6 / 4)
    assert metrics["policy/kl_old"] == pytest.approx(sum(r - 1 - math.log(r) for r in ratios) / 4, abs=1e-6)


def test_sequence_ratio_has_the_gradient_of_the_geometric_mean():
    # Under seq_mean_token_mean, GSPO's token form has the gradient of s_i = exp(mean(l - lo)) itself.
    inputs = select(random_inputs(9), [0])
    mask = inputs.response_mask
    row = replace(find_row("gspo"), clip_low=0.9, clip_high=9.0)
    advantage = torch.full_like(inputs.advantages, 0.7)
    fast = policy_loss(row, replace(inputs, advantages=advantage), totals_of(inputs)).loss
    closed = -0.7 * (inputs.logprobs - inputs.old_logprobs)[mask].mean().exp()
    torch.testing.assert_close(fast, closed)
    torch.testing.assert_close(gradient_of(fast, inputs), gradient_of(closed, inputs))


def test_sequence_ratio_of_one_token_is_the_token_ratio():
    mask, ids = torch.tensor([False, True]), torch.tensor([0, 0])
    new, old = torch.tensor([0.0, -1.0]), torch.tensor([0.0, -1.7])
    ratios = [importance_ratio(level, new - old, new, mask, ids)[1] for level in ("token", "sequence")]
    torch.testing.assert_close(*ratios)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_masked_tokens_change_nothing_whatever_they_hold(name, poison):
    row = replace(find_row(name), entropy_coef=0.1, correction="icepop")
    inputs = random_inputs(10)
    poisoned = {}
    for field in fields(inputs):
        column = getattr(inputs, field.name)
        is_column = column.dtype.is_floating_point
        poisoned[field.name] = torch.where(inputs.response_mask, column, poison).detach() if is_column else column
    bad = LossInputs(**poisoned)
    bad.logprobs.requires_grad_()
    clean_output = policy_loss(row, inputs, totals_of(inputs))
    bad_output = policy_loss(row, bad, totals_of(inputs))
    assert torch.equal(bad_output.loss, clean_output.loss)
    gradient = gradient_of(bad_output.loss, bad)
    assert torch.equal(gradient, gradient_of(clean_output.loss, inputs))
    assert not gradient[~inputs.response_mask].any()
    assert finish(bad_output.metrics) == finish(clean_output.metrics)


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
@pytest.mark.parametrize("correction", CORRECTIONS)
@pytest.mark.parametrize("sign", [-1, 1])
def test_exploding_ratios_stay_finite(name, correction, sign):
    inputs = random_inputs(11)
    inputs = LossInputs(
        logprobs=inputs.logprobs.detach().float().requires_grad_(),
        entropy=inputs.entropy.float(),
        rollout_logprobs=inputs.rollout_logprobs.float() - sign * 900,
        advantages=inputs.advantages.float(),
        response_mask=inputs.response_mask,
        sequence_ids=inputs.sequence_ids,
        old_logprobs=inputs.old_logprobs.float() - sign * 500,
        ref_logprobs=inputs.ref_logprobs.float() + sign * 500,
    )
    output = policy_loss(replace(find_row(name), correction=correction), inputs, totals_of(inputs))
    assert output.loss.isfinite()
    assert gradient_of(output.loss, inputs).isfinite().all()
    assert all(torch.tensor(value).isfinite() for value in finish(output.metrics).values())


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
@pytest.mark.parametrize("num_tokens", [0, 2])
def test_an_empty_micro_batch_gives_a_zero_loss_on_the_graph(name, num_tokens):
    logprobs = torch.full((num_tokens,), float("nan"), requires_grad=True)
    column = torch.full((num_tokens,), float("nan"))
    inputs = LossInputs(
        logprobs=logprobs,
        entropy=column,
        rollout_logprobs=column,
        advantages=column,
        response_mask=torch.zeros(num_tokens, dtype=torch.bool),
        sequence_ids=torch.zeros(num_tokens, dtype=torch.int64),
        ref_logprobs=column,
    )
    totals = LossTotals(num_loss_tokens=0, num_sequences=0, max_response_tokens=4)
    output = policy_loss(find_row(name), inputs, totals)
    output.loss.backward()
    assert output.loss == 0
    assert logprobs.grad is not None and not logprobs.grad.any()


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(sorted(ALGORITHMS)),
    aggregation=st.sampled_from(AGGREGATIONS),
    correction=st.sampled_from(CORRECTIONS),
    order=st.permutations(range(6)),
    cuts=st.sets(st.integers(1, 5)),
    seed=st.integers(0, 1000),
)
def test_cuts_and_order_change_neither_loss_nor_gradient_nor_metrics(name, aggregation, correction, order, cuts, seed):
    row = replace(find_row(name), aggregation=aggregation, correction=correction)
    inputs = random_inputs(seed, lengths=(4, 2, 6, 1, 3, 5))
    totals = totals_of(inputs)
    whole = policy_loss(row, inputs, totals)
    edges = [0, *sorted(cuts), 6]
    parts = [policy_loss(row, select(inputs, list(order[a:b])), totals) for a, b in pairwise(edges)]
    loss = torch.stack([part.loss for part in parts]).sum()
    torch.testing.assert_close(loss, whole.loss, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(gradient_of(loss, inputs), gradient_of(whole.loss, inputs), atol=1e-9, rtol=1e-9)
    assert finish(merge(part.metrics for part in parts)) == pytest.approx(finish(whole.metrics), abs=1e-9, nan_ok=True)


def test_cut_gradients_agree_to_1e_6_in_float32():
    inputs = random_inputs(12)
    single = {f.name: getattr(inputs, f.name) for f in fields(inputs)}
    single = {k: v.detach().float() if v.dtype.is_floating_point else v for k, v in single.items()}
    inputs = LossInputs(**single)
    inputs.logprobs.requires_grad_()
    row, totals = find_row("grpo"), totals_of(inputs)
    whole = gradient_of(policy_loss(row, inputs, totals).loss, inputs)
    cut = sum(gradient_of(policy_loss(row, select(inputs, [i]), totals).loss, inputs) for i in range(4))
    torch.testing.assert_close(cut, whole, atol=1e-6, rtol=1e-6)


def test_gradients_flow_into_the_current_logprobs_alone():
    inputs = random_inputs(16)
    others = ("advantages", "old_logprobs", "ref_logprobs", "rollout_logprobs")
    leaves = {name: getattr(inputs, name).clone().requires_grad_() for name in others}
    inputs = replace(inputs, **leaves)
    policy_loss(replace(find_row("grpo"), correction="tis"), inputs, totals_of(inputs)).loss.backward()
    assert inputs.logprobs.grad.any()
    assert [name for name, leaf in leaves.items() if leaf.grad is not None] == []


def test_a_missing_reference_is_told():
    inputs = replace(random_inputs(13), ref_logprobs=None)
    with pytest.raises(ValueError, match="needs ref_logprobs"):
        policy_loss(find_row("grpo"), inputs, totals_of(inputs))


def test_a_users_loss_is_found_by_path(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def half(terms, algorithm):\n    return -0.5 * terms.advantages * terms.logprobs\n")
    inputs = random_inputs(14)
    own = policy_loss(replace(BARE, loss=f"{file}:half"), inputs, totals_of(inputs)).loss
    ours = policy_loss(replace(BARE, loss="reinforce"), inputs, totals_of(inputs)).loss
    torch.testing.assert_close(own, ours / 2)


def test_what_a_users_loss_gives_outside_the_mask_does_not_count(tmp_path):
    file = tmp_path / "careless.py"
    file.write_text(
        "import torch\n"
        "def careless(terms, algorithm):\n"
        "    loss = -terms.advantages * terms.logprobs\n"
        "    return torch.where(terms.response_mask, loss, torch.nan)\n"
    )
    inputs = random_inputs(17)
    own = policy_loss(replace(BARE, loss=f"{file}:careless"), inputs, totals_of(inputs)).loss
    ours = policy_loss(replace(BARE, loss="reinforce"), inputs, totals_of(inputs)).loss
    torch.testing.assert_close(own, ours)
    torch.testing.assert_close(gradient_of(own, inputs), gradient_of(ours, inputs))


def test_loss_terms_of_masked_tokens_are_neutral(tmp_path):
    file = tmp_path / "spy.py"
    file.write_text("seen = []\ndef spy(terms, algorithm):\n    seen.append(terms)\n    return terms.logprobs\n")
    inputs = random_inputs(15)
    policy_loss(replace(BARE, loss=f"{file}:spy"), inputs, totals_of(inputs))
    (terms,) = load_attribute("algorithm.loss", f"{file}:seen")
    assert isinstance(terms, LossTerms)
    outside = ~inputs.response_mask
    assert not terms.logprobs[outside].any() and not terms.advantages[outside].any()
    assert (terms.ratio[outside] == 1).all()
