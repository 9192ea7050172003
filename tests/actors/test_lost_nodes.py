"""A machine of the cluster goes: what was on it is lost, and goes on elsewhere once there is room."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from actors import ranks
from actors.placement import PlacementRefused
from actors.ranks import RanksLost
from tests.actors.learner_cases import make_batch, make_spec, running

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Two nodes with a core each. Workers import the tests' modules from the folder it is started in."""
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
    cluster.add_node(num_cpus=1)
    asyncio.run(start())
