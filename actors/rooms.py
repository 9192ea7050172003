"""The rooms of a fleet: each reserved for itself, and yet packed or spread as the fleet's placement says.

Ray looks at the bundles of one placement group. Workers join and leave one by one, so each has a group of its own;
which nodes are wanted for it is told to Ray by the label that it gives each node.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import ray

from actors.placement import SECONDS_TO_PLACE, Labels, Resources, Room, Site, reserve
from configs.schema.placement import PlacementConfig

_NODE_ID = "ray.io/node-id"  # a label that Ray gives each node
_EPSILON = 1e-9


class Rooms:
    """Of one fleet, a room a worker. All methods belong to one event loop."""

    def __init__(self, placement: PlacementConfig, seconds: float = SECONDS_TO_PLACE) -> None:
        self._placement = placement
        self._seconds = seconds
        self._held: Counter[str] = Counter()  # rooms by node

    @asynccontextmanager
    async def reserved(self, who: str, bundle: Resources) -> AsyncIterator[Room]:
        """A room, inside. PlacementRefused when there is none for so many seconds."""
        room = await self._reserve(who, bundle)
        (node,) = room.nodes
        self._held[node] += 1
        try:
            yield room
        finally:
            self._held[node] -= 1
            room.free()

    async def _reserve(self, who: str, bundle: Resources) -> Room:
        while True:
            room = await reserve(
                who,
                [bundle],
                self._placement,
                where=lambda site: self._where(site, bundle),
                seconds=self._seconds,
            )
            # Two that waited for the same new node may both have been put there.
            if self._placement.strategy != "strict_spread" or not self._held[room.nodes[0]]:
                return room
            room.free()

    def _where(self, site: Site, bundle: Resources) -> Sequence[Labels]:
        """Which nodes are wanted, the best ones first."""
        held = sorted(+self._held)
        if self._placement.strategy == "strict_spread":
            return ({_NODE_ID: f"!in({','.join(held)})"},) if held else ({},)
        free = _free_shares(filter(self._admits, ray.nodes()), site.rooms, bundle)
        if self._placement.strategy == "spread":
            best = min(free, key=lambda node: (self._held[node], -free[node]), default=None)
        else:
            # Ray would put each on the emptiest node, and leave none for an engine or ranks that need a whole one.
            begun = {node for room in site.rooms for node in room.nodes}
            best = min((node for node in free if node in begun), key=lambda node: free[node], default=None)
        return ({_NODE_ID: best}, {}) if best else ({},)

    def _admits(self, node: Mapping[str, Any]) -> bool:
        return node["Alive"] and self._placement.admits(node["Labels"])


def _free_shares(nodes: Iterable[Mapping[str, Any]], rooms: Iterable[Room], bundle: Resources) -> dict[str, float]:
    """Nodes that have room for the bundle beside `rooms`, as far as others leave it; the share of each that is free."""
    taken: dict[str, Counter[str]] = {}
    for room in rooms:
        for node, resources in room.taken().items():
            taken.setdefault(node, Counter()).update(resources)  # type: ignore[arg-type]
    counted = "GPU" if bundle.get("GPU") else "CPU"
    shares: dict[str, float] = {}
    for node in nodes:
        there: Mapping[str, float] = node["Resources"]
        gone = taken.get(node["NodeID"], Counter())
        if all(there.get(name, 0) - gone[name] >= value - _EPSILON for name, value in bundle.items() if value):
            shares[node["NodeID"]] = 1 - gone[counted] / there[counted]
    return shares
