"""Room on the cluster for a worker or a group of ranks: reserved as a whole, or refused with what is there instead.

A Ray placement group can't grow, so each rollout worker has one of its own and each group of ranks another.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import ray
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from configs.schema.placement import PlacementConfig
from metrics.waits import waited

SECONDS_TO_PLACE = 60.0  # for nodes that are just joining
GPU_SHARE = 0.5  # of the device that a trainer's rank and a rollout worker take turns on, for each
SECONDS_FOR_A_TURN = 2.0  # in which Ray has long placed what there is room for
_SECONDS_BETWEEN_LOOKS = 0.05

Resources = Mapping[str, float]
Labels = Mapping[str, str]


class PlacementRefused(ValueError):
    """The cluster has no room. The message tells what was asked and what each node has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Reserved resources, one bundle a process; several processes may live in one, as far as it has room for them.

    `nodes`: the node of each bundle, by Ray's id. Those of one node stand together: neighbouring ranks talk most.
    """

    group: PlacementGroup
    bundles: tuple[int, ...]  # Ray's numbers of them
    nodes: tuple[str, ...]

    def options(self, bundle: int) -> dict[str, Any]:
        """Ray's options of an actor that lives in `bundle`."""
        return {
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                placement_group=self.group, placement_group_bundle_index=self.bundles[bundle]
            )
        }

    def taken(self) -> Mapping[str, Resources]:
        """Node -> what of it is reserved."""
        found: dict[str, Counter[str]] = {}
        for bundle, node in zip(self.bundles, self.nodes, strict=True):
            found.setdefault(node, Counter()).update(self.group.bundle_specs[bundle])  # type: ignore[arg-type]
        return found

    def free(self) -> None:
        """Give it back; what still runs in it is ended."""
        remove_placement_group(self.group)
        for site in _sites.values():
            site.rooms = [room for room in site.rooms if room is not self]


@dataclass(slots=True)
class Site:
    """What a run has of the cluster. Who asks for room does so in turn, and sees where those before it are."""

    rooms: list[Room] = field(default_factory=list)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


_sites: WeakKeyDictionary[asyncio.AbstractEventLoop, Site] = WeakKeyDictionary()  # a lock belongs to one event loop


def this_site() -> Site:
    """That of the event loop which runs."""
    return _sites.setdefault(asyncio.get_running_loop(), Site())


def _anywhere(_: Site) -> Sequence[Labels]:
    return ({},)


async def reserve(
    who: str,
    bundles: Sequence[Resources],
    placement: PlacementConfig | None = None,
    *,
    where: Callable[[Site], Sequence[Labels]] = _anywhere,
    seconds: float = SECONDS_TO_PLACE,
) -> Room:
    """Room for every bundle, or PlacementRefused after `seconds`. `who` is named in the refusal.

    `where`: labels of nodes beyond those of the placement, the best ones first; only the last are waited for.
    """
    placement = placement or PlacementConfig()
    deadline = time.monotonic() + seconds
    asked = [{name: value for name, value in bundle.items() if value} for bundle in bundles]
    site = this_site()
    # Those before it hold their turn for seconds at most.
    await waited(site.turn.acquire(), what=f"the turn of {who}", owner="placement", seconds=math.inf)
    try:
        *better, last = where(site)
        for labels in better:
            if room := await _placed(who, _begin(asked, placement, labels), SECONDS_FOR_A_TURN):
                site.rooms.append(room)
                return room
        group = _begin(asked, placement, last)
        room = await _placed(who, group, min(seconds, SECONDS_FOR_A_TURN), goes_on=True)
    finally:
        site.turn.release()
    room = room or await _placed(who, group, deadline - time.monotonic())
    if room is None:
        raise PlacementRefused(refusal(who, asked, placement, ray.nodes(), seconds))
    site.rooms.append(room)
    return room


def _begin(asked: Sequence[dict[str, float]], placement: PlacementConfig, labels: Labels) -> PlacementGroup:
    # Ray takes a blank after a comma for a part of the value.
    selector = {label: wanted.replace(" ", "") for label, wanted in {**placement.labels, **labels}.items()}
    selectors = [dict(selector) for _ in asked]
    return placement_group(list(asked), strategy=placement.strategy.upper(), bundle_label_selector=selectors)


async def _placed(who: str, group: PlacementGroup, seconds: float, *, goes_on: bool = False) -> Room | None:
    """The room once it is there; None after `seconds`, when the group is given up unless it `goes_on`."""
    try:
        looks = _looked_for(group, time.monotonic() + seconds)
        room = await waited(looks, what=f"room for {who}", owner="cluster", seconds=math.inf)
    except BaseException:  # also when it is cancelled: a group that waits would take the next free room
        remove_placement_group(group)
        raise
    if room is None and not goes_on:
        remove_placement_group(group)
    return room


async def _looked_for(group: PlacementGroup, deadline: float) -> Room | None:
    """By looks: Ray's own signal, `ready`, starts a process on the node, which takes seconds where it is busy."""
    while (table := placement_group_table(group))["state"] != "CREATED":
        if time.monotonic() > deadline:
            return None
        await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)
    nodes: Mapping[int, str] = table["bundles_to_node_id"]
    first = {node: bundle for bundle, node in sorted(nodes.items(), reverse=True)}
    bundles = sorted(nodes, key=lambda bundle: (first[nodes[bundle]], bundle))
    return Room(group=group, bundles=tuple(bundles), nodes=tuple(nodes[bundle] for bundle in bundles))


@asynccontextmanager
async def reserved(
    who: str, bundles: Sequence[Resources], placement: PlacementConfig, seconds: float = SECONDS_TO_PLACE
) -> AsyncIterator[Room]:
    """The room, inside."""
    room = await reserve(who, bundles, placement, seconds=seconds)
    try:
        yield room
    finally:
        room.free()


def refusal(
    who: str,
    bundles: Sequence[Resources],
    placement: PlacementConfig,
    nodes: Iterable[Mapping[str, Any]],
    seconds: float,
) -> str:
    """Asked against present, node by node."""
    kinds = Counter(tuple(sorted(bundle.items())) for bundle in bundles)
    asked = " and ".join(f"{count} x {told(dict(kind))}" for kind, count in kinds.items())
    names = sorted({name for bundle in bundles for name in bundle})
    present = "; ".join(
        f"{node['NodeManagerAddress']} has {told({name: node['Resources'].get(name, 0) for name in names})}"
        + "".join(f", {label}: {node['Labels'].get(label, 'not set')}" for label in placement.labels)
        for node in nodes
        if node["Alive"]
    )
    where = "".join(f", {label}: {wanted}" for label, wanted in placement.labels.items())
    how = "" if placement.strategy == "pack" else f", {placement.strategy}"
    return (
        f"no room for {who} within {seconds:g} s: asked for {asked}{where}{how}; taken or not, there is: "
        f"{present or 'no node'}; ask for fewer workers or ranks, add a node, or raise cluster.num_cpus (local cluster)"
    )


def told(resources: Resources) -> str:
    """`2 CPU, 1 GPU`."""
    return ", ".join(f"{value:g} {name}" for name, value in resources.items())
