"""On which devices of which node each process of a run finds its place.

As Ray's placement groups (2.60) and actors/rooms.py do it: a group takes the emptiest node and what else fits there,
then the next; who finds room for itself goes to the fullest node that others of the run are on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cluster.plan_machines import Machines, NodeFacts
from cluster.plan_roles import Role

_MANY = 10**6  # cores of a node, where their number is not known
_EPSILON = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """One process's place: its node, and its GPUs there (none on CPUs)."""

    role: str
    node: int
    devices: tuple[int, ...] = ()


class _Node:
    """What is left of a node: a share of each GPU, or cores where no node has a GPU."""

    def __init__(self, number: int, facts: NodeFacts, *, has_gpus: bool) -> None:
        self.is_begun = False
        self._number, self._labels, self._has_gpus = number, facts.labels, has_gpus
        self._gpus = [1.0] * facts.num_gpus
        self._cpus = _MANY if facts.num_cpus is None else facts.num_cpus
        self._size = max(1, facts.num_gpus if has_gpus else self._cpus)

    @property
    def free_share(self) -> float:
        """Between 0 and 1."""
        return (sum(self._gpus) if self._has_gpus else self._cpus) / self._size

    def capacity(self, role: Role) -> int:
        """Processes of the role that still fit."""
        if self._labels is not None and not role.placement.admits(self._labels):
            return 0
        if not self._has_gpus:
            return int(self._cpus // role.threads)
        share = role.placement.gpu_share
        return sum(int((left + _EPSILON) // share) for left in self._gpus) // role.num_devices

    def seat(self, role: Role) -> Seat:
        """A process moves in; there must be room for it."""
        self.is_begun = True
        if not self._has_gpus:
            self._cpus -= role.threads
            return Seat(role=role.name, node=self._number)
        share = role.placement.gpu_share
        # GPUs that others have left the least of, as long as that is enough.
        enough = sorted((left, device) for device, left in enumerate(self._gpus) if left + _EPSILON >= share)
        devices = tuple(device for _, device in enough[: role.num_devices])
        for device in devices:
            self._gpus[device] -= share
        return Seat(role=role.name, node=self._number, devices=devices)


def seats_of(roles: Sequence[Role], machines: Machines) -> list[Seat]:
    """Each process's place; those that find none are left out, though Ray would then place none of their group."""
    nodes = [_Node(number, facts, has_gpus=machines.has_gpus) for number, facts in enumerate(machines.each)]
    seats: list[Seat] = []
    for role in roles:
        if role.host:
            hosts = [seat for seat in seats if seat.role == role.host]
            seats += [replace(seat, role=role.name) for seat in hosts[: role.num_processes]]
            continue
        if not role.group_size:
            seats += _apart(role, nodes)
            continue
        for _ in range(role.num_processes // role.group_size):
            seats += _together(role, nodes)
    return seats


def _together(role: Role, nodes: Sequence[_Node]) -> list[Seat]:
    """Of one group."""
    strategy, left = role.placement.strategy, role.group_size
    able = sorted((node for node in nodes if node.capacity(role)), key=lambda node: -node.free_share)
    if strategy == "strict_pack":
        able = sorted(able, key=lambda node: -min(node.capacity(role), left))[:1]
    seats: list[Seat] = []
    if strategy == "strict_spread":
        return [node.seat(role) for node in able[:left]]
    if strategy == "spread":
        while left > len(seats) and (able := [node for node in able if node.capacity(role)]):
            seats += [node.seat(role) for node in able[: left - len(seats)]]
        return seats
    for node in able:
        seats += [node.seat(role) for _ in range(min(node.capacity(role), left - len(seats)))]
    return seats


def _apart(role: Role, nodes: Sequence[_Node]) -> list[Seat]:
    """Of processes that come and go one by one."""
    held = dict.fromkeys(nodes, 0)
    seats: list[Seat] = []
    for _ in range(role.num_processes):
        able = [node for node in nodes if node.capacity(role)]
        if role.placement.strategy == "strict_spread":
            able = [node for node in able if not held[node]]
        elif role.placement.strategy == "spread":
            able = [node for node in able if held[node] == min(held[other] for other in able)]
        elif begun := [node for node in able if node.is_begun]:
            able = [min(begun, key=lambda node: node.free_share)]
        if not able:
            break
        best = max(able, key=lambda node: node.free_share)
        held[best] += 1
        seats.append(best.seat(role))
    return seats


def missing(roles: Sequence[Role], seats: Sequence[Seat], machines: Machines) -> list[str]:
    """What has no place, with the key to change."""
    what = "GPUs" if machines.has_gpus else "CPU threads"
    complaints = []
    for role in roles:
        placed = sum(seat.role == role.name for seat in seats)
        if placed < role.num_processes:
            needed = sum(r.num_processes * (r.num_gpus if machines.has_gpus else r.threads) for r in roles)
            way_out = f"{role.key}={placed}" if placed else f"{role.key} lower, or more nodes"
            section = role.key.partition(".")[0]
            asked = f", where {section}.placement wants {role.placement}" if role.placement.is_special else ""
            complaints.append(
                f"{role.key}={role.num_processes}: {placed} of them find {what} (the run needs {needed:g}){asked}; "
                f"set {way_out}"
            )
    return complaints
