"""A machine of the cluster goes: what was on it is lost, and goes on elsewhere once there is room."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray._private.node import Node
from ray.cluster_utils import Cluster

from actors import ranks, weights
from actors.fleet import RolloutFleet
from actors.placement import PlacementRefused
from actors.ranks import RanksLost
from tests.actors.learner_cases import make_batch, make_spec, running
from tests.actors.test_faulty_workers import process_of, sample, serving, told
from tests.actors.tiny_policies import load_policy, make_policy, named_tensors

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A node with a core. Workers import the tests' modules from the folder it is started in."""
    with contextlib.chdir(Path(__file__).parents[2]):
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        ray.init(address=made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


def test_ranks_of_a_lost_node_start_again_when_there_is_room(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(tmp_path, zero_stage=1, num_ranks=2)
    batch = make_batch(1, num_ranks=2)
    node = cluster.add_node(num_cpus=1)
    monkeypatch.setattr(ranks, "SECONDS_TO_PLACE", 10.0)

    async def lose() -> float:
        async with running(spec) as group:
            await group.update(batch)
            cluster.remove_node(node, allow_graceful=False)
            lost = time.monotonic()
            with pytest.raises(RanksLost, match=r"trainer rank \d of 2 failed in update: "):
                await group.update(batch)
            return time.monotonic() - lost

    async def start() -> None:
        async with running(spec) as group:
            assert (await group.update(batch))["optimizer/skipped_steps"] == 0

    assert asyncio.run(lose()) < 60
    with pytest.raises(PlacementRefused) as no_room:
        asyncio.run(start())
    assert str(no_room.value).startswith(
        "no room for trainer of 2 ranks within 10 s: asked for 2 x 1 CPU; taken or not, "
    )
    node = cluster.add_node(num_cpus=1)
    asyncio.run(start())
    cluster.remove_node(node)


def test_a_lost_node_costs_no_group_and_its_worker_finds_other_room_or_is_given_up(
    cluster: Cluster, tmp_path: Path
) -> None:
    model = make_policy(tmp_path)

    async def scene() -> None:
        published = weights.publish(1, [named_tensors(load_policy(model))])
        nodes = [cluster.add_node(num_cpus=1)]
        async with serving(model, published, num_workers=2) as fleet:
            expected = told(await sample(fleet))
            names = {await node_of(fleet, name): name for name in fleet.names}
            lost = names[nodes[0].node_id]
            nodes.append(cluster.add_node(num_cpus=1))
            assert await told_while_lost(fleet, lost, nodes[0]) == expected
            await until_restarts(fleet, 1)
            await fleet.serving(lost)
            assert await node_of(fleet, lost) == nodes[1].node_id

            assert await told_while_lost(fleet, lost, nodes[1]) == expected
            await until_restarts(fleet, 2)
            with pytest.raises(PlacementRefused, match=f"no room for {lost} within 3 s: asked for 1 x 1 CPU"):
                await fleet.serving(lost)
            assert fleet.names == tuple({"rollout-0", "rollout-1"} - {lost})
            assert told(await sample(fleet)) == expected  # who is left goes on

    async def told_while_lost(fleet: RolloutFleet, name: str, node: Node) -> list[list[tuple[str, str]]]:
        """What is sampled while the node of this worker goes, with all its processes."""
        process = await process_of(fleet, name)
        (model / f"slow_{process}").touch()  # it is to have groups in the midst
        waiting = asyncio.ensure_future(sample(fleet))
        await asyncio.sleep(0.05)
        assert fleet.workers[name].leased
        cluster.remove_node(node, allow_graceful=False)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        return told(await waiting)

    asyncio.run(asyncio.wait_for(scene(), 240))


async def node_of(fleet: RolloutFleet, name: str) -> str:
    return await fleet.workers[name].actor.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id())


async def until_restarts(fleet: RolloutFleet, count: int) -> None:
    """Ray may know only half a minute later that a node is gone."""
    for _ in range(600):
        if fleet.num_restarts == count:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"{fleet.num_restarts} restarts after a minute, not {count}")
