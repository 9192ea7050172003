"""Ray's object store and the disk it spills to are full: told in one line by who finds it, and not tried again."""

import asyncio
import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from actors import weights
from actors.fleet import FleetFailed
from actors.rank_failures import describe_failure, is_loss
from actors.store import HOW_TO_MEND, StoreFull
from cluster.failures import FAILURES
from cluster.session import ray_session
from configs.schema import ClusterConfig
from experience.records import Sampling
from tests.actors.test_faulty_workers import serving
from tests.actors.test_fleet import prompt
from tests.actors.tiny_policies import load_policy, make_policy, named_tensors
from tests.small_disk import needs_mount, small_disk

pytestmark = needs_mount

MIB = 2**20


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cluster whose store is small, with a disk for it that is full."""
    with small_disk(tmp_path_factory.mktemp("disk") / "spill") as disk:
        with contextlib.suppress(OSError), (disk / "taken").open("wb") as taken:
            taken.write(bytes(2 * MIB))
        with contextlib.chdir(Path(__file__).parents[2]):
            ray.init(
                address="local",
                num_cpus=2,
                include_dashboard=False,
                log_to_driver=False,
                object_store_memory=80 * MIB,
                object_spilling_directory=str(disk),
            )
        yield
        ray.shutdown()


def fill() -> list[Any]:
    """Put into the store what it takes; to be held as long as it is to be full."""
    held = []
    for size in (8 * MIB, MIB, MIB // 8):
        with contextlib.suppress(StoreFull), ray_session(ClusterConfig(), num_cpus=1):
            while True:
                held.append(ray.put(np.zeros(size, dtype=np.uint8)))
    return held


@pytest.mark.usefixtures("cluster")
def test_the_driver_a_rank_and_a_fleet_tell_that_the_store_is_full(tmp_path: Path) -> None:
    model = make_policy(tmp_path)
    sampling = Sampling(num_samples=512, max_response_tokens=150, temperature=1.0, seed=3)  # more than travels inline

    async def scene() -> None:
        published = weights.publish(1, [named_tensors(load_policy(model))])
        async with serving(model, published, num_workers=1, max_running_sequences=512) as fleet:
            held = fill()
            with pytest.raises(StoreFull) as in_driver, ray_session(ClusterConfig(), num_cpus=1):
                ray.put(np.zeros(MIB, dtype=np.uint8))
            with pytest.raises(FleetFailed) as in_fleet:
                await fleet.generate(prompt(0), sampling)
            assert fleet.num_restarts == 0
            publishing = asyncio.wrap_future(ray.remote(publish_much).remote().future())
            await asyncio.wait([publishing])
            told = describe_failure("trainer", "publish", [publishing], 1024)
            assert not is_loss([publishing]), "new ranks would find the same"
            del held
        assert str(in_driver.value) == HOW_TO_MEND
        assert isinstance(in_driver.value, FAILURES)
        assert re.fullmatch(r"rollout-0 on [\d.]+: " + re.escape(HOW_TO_MEND), str(in_fleet.value))
        assert told == f"trainer rank 0 of 1 failed in publish: {HOW_TO_MEND}"

    asyncio.run(asyncio.wait_for(scene(), 120))


def publish_much() -> None:
    weights.publish(2, [[("weight", torch.zeros(4 * MIB, dtype=torch.uint8))]])
