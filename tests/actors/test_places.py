"""Where Ray puts the processes of a role: whole and shared GPUs, packed and spread, by labels; and what it refuses.

The GPUs are logical ones of a machine without any: Ray counts them as it counts real ones.
"""

import asyncio
import contextlib
import itertools
import os
from collections import Counter
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import pytest
import ray
from pydantic import TypeAdapter
from ray.cluster_utils import Cluster

from actors.placement import PlacementRefused, Room, reserve
from actors.rooms import Rooms
from algorithms.table import resolve
from cluster.plan_machines import machines_of_nodes
from cluster.plan_roles import roles_of
from cluster.plan_seats import missing, seats_of
from configs.schema import PlacementConfig, RlRun, Run

pytestmark = pytest.mark.slow

WHOLE = {"CPU": 1.0, "GPU": 1.0}
SECONDS = 30.0  # what was just given back is taken for a while, the longer the busier the machine
SECONDS_TO_BE_REFUSED = 3.0
TIERS = {"h0": "h100", "h1": "h100", "l0": "l40s"}

Names = dict[str, str]  # by Ray's id of each node
Result = TypeVar("Result")


@pytest.fixture(scope="module")
def nodes() -> Iterator[Names]:
    """Three nodes of 4 GPUs, two of one kind."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    names = {}
    for name, tier in TIERS.items():
        node = made.add_node(num_cpus=16, num_gpus=4, labels={"accelerator": tier, "name": name})
        names[node.node_id] = name
    ray.init(address=made.address, log_to_driver=False)
    yield names
    ray.shutdown()
    made.shutdown()


def run(work: Coroutine[Any, Any, Result]) -> Result:
    async def alone() -> Result:
        await all_free()
        return await work

    return asyncio.run(asyncio.wait_for(alone(), 60))


async def all_free() -> None:
    """Rooms that were given back are free a moment later."""
    for _ in range(300):
        if ray.available_resources().get("GPU", 0) == 4 * len(TIERS):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"still taken after 15 s: {ray.available_resources()}")


async def rooms_of(
    stack: contextlib.AsyncExitStack, placement: PlacementConfig, count: int, bundle: Any, seconds: float = SECONDS
) -> list[Room]:
    """Of a fleet whose workers all start at once."""
    rooms = Rooms(placement, seconds)
    asked = (stack.enter_async_context(rooms.reserved(f"rollout-{at}", bundle)) for at in range(count))
    return list(await asyncio.gather(*asked))


def test_a_group_of_ranks_is_packed_or_spread_and_its_neighbours_stand_on_one_node(nodes: Names) -> None:
    async def work() -> None:
        for strategy, counts in {"pack": [4, 1], "spread": [2, 2, 1]}.items():
            found = await ranks(5, PlacementConfig(strategy=strategy))  # type: ignore[arg-type]
            assert sorted(Counter(found).values(), reverse=True) == counts
            assert len([name for name, _ in itertools.groupby(found)]) == len(counts)
        assert len(set(await ranks(3, PlacementConfig(strategy="strict_spread")))) == 3
        assert len(set(await ranks(4, PlacementConfig(strategy="strict_pack", labels={"accelerator": "l40s"})))) == 1

    async def ranks(count: int, placement: PlacementConfig) -> list[str]:
        room = await reserve("trainer", [WHOLE] * count, placement, seconds=SECONDS)
        room.free()
        await all_free()
        return [nodes[node] for node in room.nodes]

    run(work())


def test_workers_fill_the_nodes_that_are_begun_or_keep_apart(nodes: Names) -> None:
    async def work() -> None:
        async with contextlib.AsyncExitStack() as stack:
            elsewhere = PlacementConfig(labels={"accelerator": "h100"})  # the last rooms below want 3 of l0's 4 GPUs
            policy = await reserve("trainer", [WHOLE] * 3, elsewhere, seconds=SECONDS)
            stack.callback(policy.free)
            packed = await placed(PlacementConfig(), 5)
            assert sorted(packed.values()) == [1, 4]
            assert packed[nodes[policy.nodes[0]]] == 1
            assert sorted((await placed(PlacementConfig(strategy="spread"), 5)).values()) == [1, 2, 2]
            assert set((await placed(PlacementConfig(strategy="strict_spread"), 3)).values()) == {1}
            assert set(await placed(PlacementConfig(labels={"accelerator": "!h100", "name": "in(l0, h0)"}), 3)) == {
                "l0"
            }

    async def placed(placement: PlacementConfig, count: int) -> Counter[str]:
        async with contextlib.AsyncExitStack() as stack:
            rooms = await rooms_of(stack, placement, count, WHOLE)
            return Counter(nodes[node] for room in rooms for node in room.nodes)

    run(work())


def test_shares_of_a_gpu_meet_on_one_and_actors_see_it(nodes: Names) -> None:
    @ray.remote(num_cpus=1)
    def device() -> tuple[str, str]:
        return ray.get_runtime_context().get_node_id(), os.environ["CUDA_VISIBLE_DEVICES"]

    async def work() -> None:
        async with contextlib.AsyncExitStack() as stack:
            shares = [{"CPU": 1.0, "GPU": 0.6}, {"CPU": 1.0, "GPU": 0.4}]
            here = PlacementConfig(labels={"name": "h1"})
            rooms = [await reserve("a role", [share], here, seconds=SECONDS) for share in shares]
            for room in rooms:
                stack.callback(room.free)
            seen = [
                await device.options(num_gpus=share["GPU"], **room.options(0)).remote()
                for share, room in zip(shares, rooms, strict=True)
            ]
            assert seen[0] == seen[1]
            together = await reserve("colocated", [WHOLE], here, seconds=SECONDS)
            stack.callback(together.free)
            both = [device.options(num_gpus=gpus, **together.options(0)).remote() for gpus in (0.6, 0.4)]
            first, second = await asyncio.gather(*both)
            assert first == second != seen[0]

    run(work())


@pytest.mark.parametrize(
    ("placement", "count", "told"),
    [
        ({"labels": {"accelerator": "l40s"}}, 5, r"5 x 1 CPU, 1 GPU, accelerator: l40s; .* 4 GPU, accelerator: h100; "),
        ({"strategy": "strict_spread"}, 4, r"4 x 1 CPU, 1 GPU, strict_spread; "),
        ({"strategy": "strict_pack"}, 5, r"5 x 1 CPU, 1 GPU, strict_pack; "),
        ({"labels": {"rack": "a"}}, 1, r"1 x 1 CPU, 1 GPU, rack: a; .* has 16 CPU, 4 GPU, rack: not set; "),
    ],
)
def test_what_no_node_has_is_refused_with_asked_against_present(
    nodes: Names, placement: dict[str, Any], count: int, told: str
) -> None:
    with pytest.raises(PlacementRefused, match=r"^no room for trainer within 1 s: asked for " + told):
        run(reserve("trainer", [WHOLE] * count, PlacementConfig(**placement), seconds=1))


def test_a_worker_more_than_there_are_nodes_to_keep_apart_on_is_refused(nodes: Names) -> None:
    async def work() -> None:
        async with contextlib.AsyncExitStack() as stack:
            await rooms_of(stack, PlacementConfig(strategy="strict_spread"), 4, WHOLE, SECONDS_TO_BE_REFUSED)

    with pytest.raises(PlacementRefused, match=r"no room for rollout-3 within .* 1 x 1 CPU, 1 GPU, strict_spread; "):
        run(work())


PLANNED: list[dict[str, Any]] = [
    {"trainer": {"num_ranks": 4}, "rollout": {"num_workers": 4}},
    {"trainer": {"num_ranks": 3}, "rollout": {"num_workers": 5}},
    {"trainer": {"num_ranks": 6}, "rollout": {"num_workers": 1, "tensor_parallel_size": 4}},
    {"trainer": {"num_ranks": 3, "placement": {"strategy": "strict_spread"}}, "rollout": {"num_workers": 5}},
    {"trainer": {"num_ranks": 2}, "rollout": {"num_workers": 3, "placement": {"strategy": "strict_spread"}}},
    {"trainer": {"num_ranks": 5, "placement": {"strategy": "spread"}}, "rollout": {"num_workers": 2}},
    {
        "trainer": {"num_ranks": 4, "placement": {"labels": {"accelerator": "l40s"}}},
        "rollout": {"num_workers": 6, "placement": {"labels": {"accelerator": "h100"}}},
    },
    {
        "trainer": {"num_ranks": 4, "placement": {"gpu_share": 0.6}},
        "rollout": {"num_workers": 4, "gpu_memory_utilization": 0.3, "placement": {"gpu_share": 0.4}},
    },
    {
        "algorithm": {"name": "ppo", "kl_coef": 0.1},
        "trainer": {"num_ranks": 3},
        "critic": {"num_ranks": 2},
        "reference": {"num_ranks": 3},
        "rollout": {"num_workers": 2},
    },
]


@pytest.mark.parametrize("sections", PLANNED, ids=range(len(PLANNED)))
def test_a_plan_puts_each_role_where_ray_does(nodes: Names, sections: dict[str, Any]) -> None:
    """Equal nodes may change their parts: what counts is who is beside whom, and how many of them."""
    recipe = {
        "name": "planned",
        "stage": "rl",
        "model": {"path": "unread"},
        "data": {"arithmetic": {}},
        "num_steps": 1,
        "rewards": [{"use": "math"}],
        "algorithm": {"name": "grpo", "kl_coef": 0},
        **sections,
    }
    planned_run = TypeAdapter(Run).validate_python(recipe)
    assert isinstance(planned_run, RlRun)
    roles = roles_of(planned_run, resolve(planned_run.algorithm))
    machines = machines_of_nodes(ray.nodes(), "H100")
    seats = seats_of(roles, machines)
    assert not missing(roles, seats, machines)

    async def work() -> Counter[tuple[str, str]]:
        async with contextlib.AsyncExitStack() as stack:
            found: Counter[tuple[str, str]] = Counter()
            for role in roles:
                bundle = {"CPU": float(role.threads), "GPU": role.num_gpus}
                if role.group_size:
                    rooms = [await reserve(role.name, [bundle] * role.group_size, role.placement, seconds=SECONDS)]
                    stack.callback(rooms[0].free)
                else:
                    rooms = await rooms_of(stack, role.placement, role.num_processes, bundle)
                found.update((node, role.name) for room in rooms for node in room.nodes)
            return found

    by_plan = Counter((str(seat.node), seat.role) for seat in seats)
    assert neighbours(run(work())) == neighbours(by_plan)


def neighbours(found: Counter[tuple[str, str]]) -> list[list[tuple[str, int]]]:
    """Of each node, the roles there and how many of each."""
    by_node: dict[str, list[tuple[str, int]]] = {}
    for (node, role), count in found.items():
        by_node.setdefault(node, []).append((role, count))
    return sorted(sorted(roles) for roles in by_node.values())
