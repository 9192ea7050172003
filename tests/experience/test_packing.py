from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experience.packing import plan_micro_batches, plan_mini_batches, redeal
from experience.records import Batch, Item, MiniBatch

BUDGET = 64


def items(*lengths: int) -> list[Item]:
    return [Item(block=0, row=row, num_tokens=n, num_loss_tokens=max(1, n // 2)) for row, n in enumerate(lengths)]


def singles(*lengths: int) -> list[list[Item]]:
    """Each of a group of its own."""
    return [[item] for item in items(*lengths)]


def lengths_of(plan: tuple[tuple[tuple[Item, ...], ...], ...]) -> list[list[list[int]]]:
    return [[[item.num_tokens for item in micro] for micro in rank] for rank in plan]


def rows_of(mini: MiniBatch) -> list[int]:
    return sorted(item.row for rank in mini.ranks for micro in rank for item in micro)


def filled(mini: MiniBatch) -> set[tuple[Item, ...]]:
    return {micro for rank in mini.ranks for micro in rank if micro}


lengths = st.lists(st.integers(2, BUDGET), max_size=60)
ranks = st.integers(1, 5)


@given(lengths, ranks)
def test_every_item_is_planned_exactly_once(lengths: list[int], num_ranks: int) -> None:
    given_items = items(*lengths)
    plan = plan_micro_batches([[item] for item in given_items], num_ranks=num_ranks, tokens_per_micro_batch=BUDGET)
    planned = [item for rank in plan for micro in rank for item in micro]
    assert sorted(planned, key=lambda item: item.row) == given_items


@given(lengths, ranks)
def test_ranks_have_equal_counts_and_no_micro_batch_exceeds_the_budget(lengths: list[int], num_ranks: int) -> None:
    plan = plan_micro_batches(singles(*lengths), num_ranks=num_ranks, tokens_per_micro_batch=BUDGET)
    assert len(plan) == num_ranks
    assert len({len(rank) for rank in plan}) == 1
    assert all(sum(micro) <= BUDGET for rank in lengths_of(plan) for micro in rank)


@given(lengths, ranks)
def test_ranks_differ_by_at_most_the_budget(lengths: list[int], num_ranks: int) -> None:
    plan = plan_micro_batches(singles(*lengths), num_ranks=num_ranks, tokens_per_micro_batch=BUDGET)
    totals = [sum(map(sum, rank)) for rank in lengths_of(plan)]
    assert max(totals) - min(totals) <= BUDGET


@given(st.lists(st.integers(2, BUDGET), min_size=1, max_size=30), ranks)
def test_ranks_differ_by_at_most_the_longest_sequence_in_one_pass(lengths: list[int], num_ranks: int) -> None:
    plan = plan_micro_batches(singles(*lengths), num_ranks=num_ranks, tokens_per_micro_batch=sum(lengths))
    totals = [sum(map(sum, rank)) for rank in lengths_of(plan)]
    assert len(plan[0]) == 1
    assert max(totals) - min(totals) <= max(lengths)


@given(lengths, ranks)
def test_passes_are_few(lengths: list[int], num_ranks: int) -> None:
    plan = plan_micro_batches(singles(*lengths), num_ranks=num_ranks, tokens_per_micro_batch=BUDGET)
    # Two sequences of one rank's neighbouring bins always fill more than one bin, so no plan is far from full.
    assert len(plan[0]) <= -(-2 * sum(lengths) // (BUDGET * num_ranks)) + 1


@given(lengths, ranks)
def test_sequences_keep_their_order_within_a_micro_batch(lengths: list[int], num_ranks: int) -> None:
    plan = plan_micro_batches(singles(*lengths), num_ranks=num_ranks, tokens_per_micro_batch=BUDGET)
    for micro in chain.from_iterable(plan):
        assert [item.row for item in micro] == sorted(item.row for item in micro)


def made_groups(*sizes: int, num_tokens: int = 4, num_loss_tokens: int = 1) -> list[list[Item]]:
    rows = iter(range(sum(sizes)))
    return [
        [Item(block=0, row=next(rows), num_tokens=num_tokens, num_loss_tokens=num_loss_tokens) for _ in range(size)]
        for size in sizes
    ]


def test_groups_stay_together_where_that_computes_less() -> None:
    groups = made_groups(4, 4, 4, 4)
    plan = plan_micro_batches(groups, num_ranks=2, tokens_per_micro_batch=BUDGET)
    assert [[item.row // 4 for item in micro] for (micro,) in plan] in ([[0] * 4 + [2] * 4, [1] * 4 + [3] * 4],)


def test_a_group_is_parted_where_a_rank_would_else_have_nothing_to_do() -> None:
    plan = plan_micro_batches(made_groups(8), num_ranks=2, tokens_per_micro_batch=BUDGET)
    assert [[len(micro) for micro in rank] for rank in plan] == [[4], [4]]


@given(st.lists(st.lists(st.integers(2, BUDGET), max_size=6), max_size=12), ranks)
def test_keeping_groups_together_costs_no_pass(groups: list[list[int]], num_ranks: int) -> None:
    sequences = iter(items(*chain.from_iterable(groups)))
    together = [[next(sequences) for _ in group] for group in groups]
    apart = [[item] for group in together for item in group]
    plan, other = (
        plan_micro_batches(each, num_ranks=num_ranks, tokens_per_micro_batch=BUDGET) for each in (together, apart)
    )
    assert len(plan[0]) == len(other[0])
    assert sorted(item.row for item in chain.from_iterable(chain.from_iterable(plan))) == list(range(len(apart)))


def plan_with_still(groups: list[list[Item]], still: set[int]) -> MiniBatch:
    (mini,) = plan_mini_batches(
        groups, num_mini_batches=1, num_ranks=2, tokens_per_micro_batch=BUDGET, is_still=lambda item: item.row in still
    )
    return mini


def test_what_has_no_gradient_comes_last_on_every_rank_and_counts_all_the_same() -> None:
    mini = plan_with_still(made_groups(2, 2, 2), still={2, 3, 4})
    assert (mini.num_still, mini.num_sequences, mini.num_loss_tokens) == (1, 6, 6)
    assert {len(rank) for rank in mini.ranks} == {2}
    last = [item.row for rank in mini.ranks for item in rank[-1]]
    assert sorted(last) == [2, 3], "a group goes there as a whole or not at all"
    assert rows_of(mini) == list(range(6))
    dealt = redeal(Batch(blocks=(), mini_batches=(mini,)), 3).mini_batches[0]
    assert dealt.num_still == 0 and filled(dealt) == filled(mini)


def test_a_mini_batch_without_any_gradient_is_learned_from_as_ever() -> None:
    assert plan_with_still(made_groups(2, 2), still={0, 1, 2, 3}) == plan_with_still(made_groups(2, 2), still=set())


def test_a_tight_fit_saves_a_pass() -> None:
    # Balancing would put 3 + 2 + 2 = 7 into one bin of 6; best fit finds 3 + 3 and 2 + 2 + 2.
    plan = plan_micro_batches(singles(3, 3, 2, 2, 2), num_ranks=1, tokens_per_micro_batch=6)
    assert lengths_of(plan) == [[[3, 3], [2, 2, 2]]]


def test_larger_bins_go_to_and_fro_between_ranks() -> None:
    plan = plan_micro_batches(singles(9, 8, 7, 6), num_ranks=2, tokens_per_micro_batch=10)
    assert lengths_of(plan) == [[[9], [6]], [[8], [7]]]


def test_a_rank_without_sequences_gets_empty_micro_batches() -> None:
    plan = plan_micro_batches(singles(5), num_ranks=2, tokens_per_micro_batch=10)
    assert lengths_of(plan) == [[[5]], [[]]]


def test_nothing_needs_no_pass() -> None:
    assert plan_micro_batches([], num_ranks=2, tokens_per_micro_batch=10) == ((), ())
    assert plan_mini_batches([], num_mini_batches=2, num_ranks=2, tokens_per_micro_batch=10) == ()


def test_a_sequence_over_the_budget_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"trainer\.tokens_per_micro_batch=10: block 0, row 1 has 11 tokens"):
        plan_micro_batches(singles(5, 11), num_ranks=1, tokens_per_micro_batch=10)


def test_a_sequence_without_loss_tokens_is_refused() -> None:
    silent = Item(block=2, row=3, num_tokens=4)
    with pytest.raises(ValueError, match="num_loss_tokens=0 in block 2, row 3"):
        plan_mini_batches([[silent]], num_mini_batches=1, num_ranks=1, tokens_per_micro_batch=10)


def test_mini_batches_take_whole_groups_in_order_and_know_their_totals() -> None:
    sequences = items(4, 4, 4, 4, 4, 4)
    groups = [sequences[0:2], [], sequences[2:3], sequences[3:6]]
    first, second = plan_mini_batches(groups, num_mini_batches=2, num_ranks=2, tokens_per_micro_batch=8)
    assert (rows_of(first), first.num_sequences, first.num_loss_tokens) == ([0, 1], 2, 4)
    assert (rows_of(second), second.num_sequences, second.num_loss_tokens) == ([2, 3, 4, 5], 4, 8)


@given(st.integers(1, 12), st.integers(1, 6))
def test_mini_batches_differ_by_at_most_one_group_and_none_is_empty(num_groups: int, num_mini_batches: int) -> None:
    groups = [[item] for item in items(*[4] * num_groups)]
    minis = plan_mini_batches(groups, num_mini_batches=num_mini_batches, num_ranks=1, tokens_per_micro_batch=8)
    sizes = [mini.num_sequences for mini in minis]
    assert len(sizes) == min(num_groups, num_mini_batches)
    assert max(sizes) - min(sizes) <= 1
    assert [row for mini in minis for row in rows_of(mini)] == list(range(num_groups))


@given(st.lists(st.integers(2, BUDGET), min_size=1, max_size=40), ranks, ranks)
def test_a_batch_is_dealt_anew_in_the_same_micro_batches(lengths: list[int], num_ranks: int, others: int) -> None:
    groups = [items(*lengths)[start : start + 4] for start in range(0, len(lengths), 4)]
    plan = plan_mini_batches(groups, num_mini_batches=2, num_ranks=num_ranks, tokens_per_micro_batch=BUDGET)
    batch = Batch(blocks=(), mini_batches=plan, mixed=plan, trains_policy=False, epochs=2)
    dealt = redeal(batch, others)
    assert dealt.mixed == () and (dealt.trains_policy, dealt.epochs) == (False, 2)
    for was, now in zip(batch.mini_batches, dealt.mini_batches, strict=True):
        assert len(now.ranks) == others and len({len(rank) for rank in now.ranks}) == 1
        assert filled(was) == filled(now)
        assert (now.num_sequences, now.num_loss_tokens) == (was.num_sequences, was.num_loss_tokens)


def test_as_many_ranks_keep_what_they_were_dealt() -> None:
    plan = plan_mini_batches([items(9, 8, 7, 6)], num_mini_batches=1, num_ranks=2, tokens_per_micro_batch=BUDGET)
    assert redeal(Batch(blocks=(), mini_batches=plan), 2).mini_batches == plan
    five = redeal(Batch(blocks=(), mini_batches=plan), 5).mini_batches[0].ranks
    assert [len(rank) for rank in five] == [1] * 5 and five.count(((),)) == 3
