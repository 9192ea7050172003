"""A plan as people read it, and as programs do."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from cluster.plan import Plan, Speeds
from cluster.plan_holdings import RolePlan
from cluster.plan_seats import Seat
from cluster.plan_speed import StepSpeed

_GIB = 2**30


def plan_text(plan: Plan) -> str:
    """The whole plan, in lines of at most 120 characters but for problems."""
    return "\n".join(_lines(plan)) + "\n"


def plan_json(plan: Plan) -> dict[str, Any]:
    """The same, with sizes in bytes and times in seconds."""
    speeds = plan.speeds
    return {
        "run": plan.run.name,
        "stage": plan.run.stage,
        "parameters": plan.sizes.num_parameters,
        "active_parameters": plan.sizes.num_active_parameters,
        "longest_sequence": plan.longest_sequence,
        "machines": asdict(plan.machines),
        "assumptions": asdict(plan.assumed),
        "roles": [_role_json(role) for role in plan.roles],
        "seats": [asdict(seat) for seat in plan.seats],
        "speed": None if speeds is None else asdict(speeds),
        "problems": list(plan.problems),
    }


def _role_json(plan: RolePlan) -> dict[str, Any]:
    return {
        **asdict(plan.role),
        "placement": plan.role.placement.model_dump(),
        "phases": [{"name": phase.name, "bytes": phase.total, "parts": dict(phase.parts)} for phase in plan.phases],
        "peak_bytes": plan.peak.total,
        "capacity_bytes": plan.capacity,
        "host_bytes": plan.host_bytes,
        "longest_sequences_in_cache": plan.sequences,
    }


def _lines(plan: Plan) -> Iterator[str]:
    sizes = plan.sizes
    active = f", {sizes.num_active_parameters / 1e9:.3g} B active" if sizes.num_experts else ""
    yield f"plan of {plan.run.name} ({plan.run.stage}): {sizes.model_type}, {sizes.num_parameters:,} parameters{active}"
    yield f"longest sequence: {plan.longest_sequence} tokens"
    yield ""
    yield "who gets what"
    for role in plan.roles:
        seats = [seat for seat in plan.seats if seat.role == role.role.name]
        processes = f"{role.role.num_processes:>4} x {_devices(role, plan)}"
        yield f"  {role.role.name:<13}{processes}   {_places(seats)}{_wishes(role)}"
    yield ""
    yield "memory of each process" + (
        "" if plan.machines.has_gpus else " (tensors; an allocator keeps more, docs/planning.md)"
    )
    for role in plan.roles:
        yield from _memory(role)
    if plan.speeds is not None:
        yield ""
        yield from _speed(plan, plan.speeds)
    yield ""
    yield "what does not fit" if plan.problems else "everything fits, as far as sizes are known"
    yield from (f"  {problem}" for problem in plan.problems)


def _devices(role: RolePlan, plan: Plan) -> str:
    count = role.role.num_gpus if plan.machines.has_gpus else role.role.threads
    what = "GPU" if plan.machines.has_gpus else "CPU thread"
    return f"{count:g} {what}{'s' * (count > 1)}"


def _wishes(role: RolePlan) -> str:
    placement = role.role.placement
    return f" ({placement})" if placement.is_special else ""


def _places(seats: Sequence[Seat]) -> str:
    """`node 0: GPUs 0-3; node 1: GPUs 0-1`."""
    by_node = groupby(sorted(seats, key=lambda seat: seat.node), key=lambda seat: seat.node)
    places = []
    for node, own in by_node:
        members = list(own)
        devices = sorted(device for seat in members for device in seat.devices)
        shown = f": GPUs {devices[0]}-{devices[-1]}" if devices else f": {len(members)} processes"
        places.append(f"node {node}{shown}")
    return "; ".join(places[:4]) + (f"; and {len(places) - 4} nodes more" if len(places) > 4 else "")


def _memory(role: RolePlan) -> Iterator[str]:
    capacity = "" if role.capacity is None else f" of {_size(role.capacity)}"
    yield f"  {role.role.name}: peak {_size(role.peak.total)}{capacity}; host {_size(role.host_bytes)}"
    for phase in role.phases:
        yield f"    {phase.name:<32}{_size(phase.total):>11}"
        yield from (f"      {name:<30}{_size(size):>11}" for name, size in phase.parts.items())
    if role.sequences is not None:
        yield f"    the cache holds {role.sequences} sequences of the longest length"


def _speed(plan: Plan, speeds: Speeds) -> Iterator[str]:
    yield f"a step, estimated: {speeds.tokens:,} tokens, {speeds.training_flops:.3g} FLOPs of training"
    yield f"  {'':<34}{'devices':>8}{'generate':>10}{'train':>10}{'sync':>8}{'step':>10}{'device-s':>10}"
    layouts = dict.fromkeys((speeds.now, speeds.colocated, *speeds.more_workers))
    yield from (_speed_line(speed) for speed in layouts)
    assumed, machines = plan.assumed, plan.machines
    yield (
        f"  assumed: {machines.peak_flops / 1e12:.3g} TFLOP/s x {assumed.mfu:g} in training, "
        f"{machines.bandwidth / 1e9:.4g} GB/s x {assumed.bandwidth_share:g} in decoding,"
    )
    yield (
        f"  prompts of {assumed.mean_prompt_share:g}, responses of {assumed.mean_response_share:g} times their limits,"
        f" weights sent at {assumed.sync_bytes_per_second / 1e9:g} GB/s, rewards in no time;"
    )
    yield "  side by side with max_staleness above 0, in turns with 0; colocated: all devices sample, then all train"


def _speed_line(speed: StepSpeed) -> str:
    times = (speed.generating, speed.training, speed.syncing, speed.step, speed.device_seconds)
    widths = (10, 10, 8, 10, 10)
    numbers = "".join(f"{_number(value):>{width}}" for value, width in zip(times, widths, strict=True))
    return f"  {speed.name:<34}{speed.num_devices:>8}{numbers}"


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def _size(size: int) -> str:
    return f"{size / _GIB:.2f} GiB" if size >= _GIB / 10 else f"{size / 2**20:.1f} MiB"
