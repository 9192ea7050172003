"""Room on the cluster for a worker or a group of ranks: reserved as a whole, or refused with what is there instead.

A Ray placement group can't grow, so each rollout worker has one of its own and each group of ranks another.
"""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from metrics.waits import Overdue, waited

SECONDS_TO_PLACE = 60.0  # for nodes that are just joining

Strategy = Literal["PACK", "STRICT_PACK", "SPREAD", "STRICT_SPREAD"]
Resources = Mapping[str, float]


class PlacementRefused(ValueError):
    """The cluster has no room. The message tells what was asked and what each node has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Reserved resources, one bundle a process."""

    group: PlacementGroup

    def options(self, bundle: int) -> dict[str, Any]:
        """Ray's options of the actor that lives in `bundle`."""
        return {
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                placement_group=self.group, placement_group_bundle_index=bundle
            )
        }

    def free(self) -> None:
        """Give it back; what still runs in it is ended."""
        remove_placement_group(self.group)


async def reserve(
    who: str, bundles: Sequence[Resources], strategy: Strategy = "PACK", seconds: float = SECONDS_TO_PLACE
) -> Room:
    """Room for every bundle, or PlacementRefused after `seconds`. `who` is named in the refusal."""
    asked = [{name: value for name, value in bundle.items() if value} for bundle in bundles]
    room = Room(group=placement_group(asked, strategy=strategy))
    try:
        ready: Awaitable[Any] = room.group.ready()  # type: ignore[assignment]
        await waited(ready, what=f"room for {who}", owner="cluster", seconds=seconds)
    except Overdue:
        room.free()
        raise PlacementRefused(refusal(who, asked, strategy, ray.nodes(), seconds)) from None
    except BaseException:  # also when it is cancelled: a group that waits would take the next free room
        room.free()
        raise
    return room


@asynccontextmanager
async def reserved(who: str, bundle: Resources, seconds: float = SECONDS_TO_PLACE) -> AsyncIterator[dict[str, Any]]:
    """The options of an actor that has room inside."""
    room = await reserve(who, [bundle], seconds=seconds)
    try:
        yield room.options(0)
    finally:
        room.free()


def refusal(
    who: str, bundles: Sequence[Resources], strategy: str, nodes: Sequence[Mapping[str, Any]], seconds: float
) -> str:
    """Asked against present, node by node."""
    kinds = Counter(tuple(sorted(bundle.items())) for bundle in bundles)
    asked = " and ".join(f"{count} x {told(dict(kind))}" for kind, count in kinds.items())
    names = sorted({name for bundle in bundles for name in bundle})
    alive = [node for node in nodes if node["Alive"]]
    present = "; ".join(
        f"{node['NodeManagerAddress']} has {told({name: node['Resources'].get(name, 0) for name in names})}"
        for node in alive
    )
    how = "" if strategy == "PACK" else f", {strategy}"
    return (
        f"no room for {who} within {seconds:g} s: asked for {asked}{how}; taken or not, there is: "
        f"{present or 'no node'}; ask for fewer workers or ranks, add a node, or raise cluster.num_cpus (local cluster)"
    )


def told(resources: Resources) -> str:
    """`2 CPU, 1 GPU`."""
    return ", ".join(f"{value:g} {name}" for name, value in resources.items())
