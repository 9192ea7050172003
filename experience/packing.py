"""How the sequences of a step are cut into mini-batches, ranks and micro-batches."""

import heapq
from bisect import bisect_left, insort
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, pairwise
from operator import add

import numpy as np

from experience.records import Batch, Item, MicroBatch, MiniBatch, TokenBlock

# A bin is a micro-batch that has no rank yet; a unit is sequences of one group that stay together.

# The sequences of a group begin alike, which a micro-batch computes once (trainers/prefixes.py). They stay together up
# to these shares of its budget; 0: each goes its own way.
_UNIT_SHARES = (1.0, 0.25, 0.0)


def _never(_: Item) -> bool:
    return False


def plan_mini_batches(
    groups: Sequence[Sequence[Item]],
    *,
    num_mini_batches: int,
    num_ranks: int,
    tokens_per_micro_batch: int,
    is_still: Callable[[Item], bool] = _never,
) -> tuple[MiniBatch, ...]:
    """Mini-batches of whole, consecutive groups, each dealt evenly to the ranks; same input, same plan.

    They differ by at most one group, and are fewer than asked where groups are fewer: none is empty. Groups that
    no gradient would come of (`is_still`) have micro-batches of their own, unless a mini-batch has no others.
    Raises ValueError for a sequence that is longer than the budget or has no token in the loss.
    """
    occupied = [tuple(group) for group in groups if group]
    num_cuts = min(num_mini_batches, len(occupied))
    edges = [len(occupied) * cut // num_cuts for cut in range(num_cuts + 1)] if occupied else []
    return tuple(
        _mini_batch(occupied[start:end], num_ranks, tokens_per_micro_batch, is_still) for start, end in pairwise(edges)
    )


def plan_block(block: TokenBlock, *, number: int, num_ranks: int, tokens_per_micro_batch: int) -> MiniBatch:
    """One mini-batch of every sequence of `block`, which is the batch's `number`th.

    Sequences that are compared with each other stay together.
    """
    counted = np.concatenate([[0], np.cumsum(block.response_mask)])
    edges = np.arange(len(block) + 1) if block.ranking is None else block.ranking.edges
    items = [
        Item(
            block=number,
            row=start,
            num_rows=end - start,
            num_tokens=int(block.offsets[end] - block.offsets[start]),
            num_loss_tokens=int(counted[block.offsets[end]] - counted[block.offsets[start]]),
        )
        for start, end in pairwise(edges.tolist())
    ]
    return _mini_batch([[item] for item in items], num_ranks, tokens_per_micro_batch)


def redeal(batch: Batch, num_ranks: int) -> Batch:
    """The same micro-batches dealt to `num_ranks` ranks, filled up with empty ones; what is mixed in is left out."""
    return replace(batch, mini_batches=tuple(_redealt(mini, num_ranks) for mini in batch.mini_batches), mixed=())


def _redealt(mini_batch: MiniBatch, num_ranks: int) -> MiniBatch:
    if len(mini_batch.ranks) == num_ranks:
        return mini_batch
    bins = [micro_batch for rank in mini_batch.ranks for micro_batch in rank if micro_batch]
    bins += [()] * (-len(bins) % num_ranks)
    return replace(mini_batch, ranks=_deal(bins, num_ranks), num_still=0)


def plan_micro_batches(
    groups: Sequence[Sequence[Item]], *, num_ranks: int, tokens_per_micro_batch: int
) -> tuple[tuple[MicroBatch, ...], ...]:
    """For each rank the same, smallest found number of micro-batches, of about equal tokens.

    Of the plans that keep groups together, in part or not at all, it is the one that computes least. The ranks' totals
    differ by at most the longest sequence or what was kept together, or by at most the budget where only a tighter
    packing saves a pass. The sequences of a micro-batch keep their order. Raises ValueError for a sequence that is
    longer than the budget.
    """
    items = list(chain.from_iterable(groups))
    for item in items:
        _check_length(item, tokens_per_micro_batch)
    # By identity: there are many items, and to hash one is to hash all its fields.
    numbers = {id(item): number for number, group in enumerate(groups) for item in group}
    places = {id(item): place for place, item in enumerate(items)}
    num_passes = _least_passes(items, num_ranks, tokens_per_micro_batch)
    while True:
        plans = []
        for share in _UNIT_SHARES:
            units = _units(groups, share * tokens_per_micro_batch)
            if (bins := _fill(units, num_passes * num_ranks, tokens_per_micro_batch)) is not None:
                plans.append(
                    _deal([tuple(sorted(members, key=lambda item: places[id(item)])) for members in bins], num_ranks)
                )
        if plans:
            return min(plans, key=lambda plan: _cost(plan, numbers))
        num_passes += 1


def _units(groups: Sequence[Sequence[Item]], limit: float) -> list[MicroBatch]:
    """The groups, cut into units of at most so many tokens; a longer sequence is one of its own."""
    units: list[MicroBatch] = []
    for group in groups:
        room = 0.0
        for item in group:
            if item is group[0] or item.num_tokens > room:
                units.append(())
                room = limit
            units[-1] += (item,)
            room -= item.num_tokens
    return units


def _cost(plan: Sequence[Sequence[MicroBatch]], numbers: Mapping[int, int]) -> int:
    """Tokens that are computed: in each pass, those of its slowest rank. `numbers`: each item's group, by its id."""
    return sum(
        max(_num_computed(micro_batch, numbers) for micro_batch in of_pass) for of_pass in zip(*plan, strict=True)
    )


def _num_computed(micro_batch: MicroBatch, numbers: Mapping[int, int]) -> int:
    """Tokens of a micro-batch, where what the loss doesn't count is taken for what a group has in common."""
    common = {numbers[id(item)]: item.num_tokens - item.num_loss_tokens for item in micro_batch}
    return sum(common.values()) + sum(item.num_loss_tokens for item in micro_batch)


def _mini_batch(
    groups: Sequence[Sequence[Item]], num_ranks: int, budget: int, is_still: Callable[[Item], bool] = _never
) -> MiniBatch:
    items = list(chain.from_iterable(groups))
    for item in items:
        _check_loss_tokens(item)
    parts: list[list[Sequence[Item]]] = [[], []]
    for group in groups:
        parts[all(map(is_still, group))].append(group)
    learned, measured = (
        plan_micro_batches(part, num_ranks=num_ranks, tokens_per_micro_batch=budget)
        for part in (parts if parts[False] else reversed(parts))
    )
    return MiniBatch(
        ranks=tuple(map(add, learned, measured)),
        num_items=len(items),
        num_sequences=sum(item.num_rows for item in items),
        num_loss_tokens=sum(item.num_loss_tokens for item in items),
        num_still=len(measured[0]),
    )


def _check_length(item: Item, budget: int) -> None:
    if item.num_tokens > budget:
        raise ValueError(
            f"trainer.tokens_per_micro_batch={budget}: block {item.block}, row {item.row} has {item.num_tokens} "
            f"tokens; set it to {item.num_tokens} or more, or shorten the sequences"
        )


def _check_loss_tokens(item: Item) -> None:
    if item.num_loss_tokens < 1:
        raise ValueError(
            f"num_loss_tokens={item.num_loss_tokens} in block {item.block}, row {item.row}: the sequence "
            "would train nothing; leave it out of the batch"
        )


def _least_passes(items: Sequence[Item], num_ranks: int, budget: int) -> int:
    """No plan has fewer: all tokens must fit, and no two sequences over half the budget share a bin."""
    num_full = -(-sum(item.num_tokens for item in items) // budget)
    num_large = sum(2 * item.num_tokens > budget for item in items)
    return -(-max(num_full, num_large) // num_ranks)


def _fill(units: Sequence[MicroBatch], num_bins: int, budget: int) -> list[MicroBatch] | None:
    """The units in `num_bins` bins: balanced if that fits, else tight; None if neither fits."""
    by_load = sorted(units, key=_load, reverse=True)
    loads = [_load(unit) for unit in by_load]
    places = _place_balanced(loads, num_bins, budget)
    if places is None:
        places = _place_tight(loads, num_bins, budget)
    if places is None:
        return None
    bins: list[list[Item]] = [[] for _ in range(num_bins)]
    for unit, place in zip(by_load, places, strict=True):
        bins[place].extend(unit)
    return [tuple(members) for members in bins]


def _load(members: MicroBatch) -> int:
    return sum(item.num_tokens for item in members)


def _place_balanced(lengths: Sequence[int], num_bins: int, budget: int) -> list[int] | None:
    """Bin of each length: always the least loaded one. `lengths` descend, so loads end up about equal."""
    loads = [(0, place) for place in range(num_bins)]
    places = []
    for length in lengths:
        load, place = loads[0]
        if load + length > budget:
            return None  # the least loaded bin has no room, so no bin has
        heapq.heapreplace(loads, (load + length, place))
        places.append(place)
    return places


def _place_tight(lengths: Sequence[int], num_bins: int, budget: int) -> list[int] | None:
    """Bin of each length: the fullest one that has room (best fit, decreasing)."""
    rooms = [(budget, place) for place in range(num_bins)]  # ascending
    places = []
    for length in lengths:
        at = bisect_left(rooms, (length, -1))
        if at == len(rooms):
            return None
        room, place = rooms.pop(at)
        insort(rooms, (room - length, place))
        places.append(place)
    return places


def _deal(bins: Sequence[MicroBatch], num_ranks: int) -> tuple[tuple[MicroBatch, ...], ...]:
    """Bins to ranks, largest first and to and fro: equal work within a pass, and in sum."""
    by_load = sorted(bins, key=_load, reverse=True)
    hands: list[list[MicroBatch]] = [[] for _ in range(num_ranks)]
    for start in range(0, len(by_load), num_ranks):
        dealt = by_load[start : start + num_ranks]
        forth = (start // num_ranks) % 2 == 0
        for hand, members in zip(hands, dealt if forth else reversed(dealt), strict=True):
            hand.append(members)
    return tuple(tuple(hand) for hand in hands)
