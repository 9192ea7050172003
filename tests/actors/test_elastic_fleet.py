"""Workers join and leave while groups are sampled: nothing is lost or doubled. The engine is a light one."""

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from actors import weights
from actors.fleet import RolloutFleet
from actors.messages import RolloutSpec
from cluster import status
from configs.schema.rollout import RolloutConfig
from experience.records import Sampling
from tests.actors.light_engine import LIGHT_ENGINE
from tests.actors.test_fleet import prompt
from tests.actors.tiny_policies import load_policy, make_policy, named_tensors

pytestmark = pytest.mark.usefixtures("cluster")

NUM_GROUPS = 60
SAMPLING = Sampling(num_samples=4, max_response_tokens=150, temperature=1.0, seed=3)


def test_one_worker_becomes_three_and_one_again_and_every_group_is_sampled_once(tmp_path: Path) -> None:
    model = make_policy(tmp_path)
    config = RolloutConfig(num_workers=1, max_running_sequences=8)
    spec = RolloutSpec(model_path=str(model), config=config, max_model_len=200, stop_token_ids=(1,))
    ids: list[str] = []
    workers: list[set[str]] = []
    seen: dict[str, str] = {}

    async def sample(fleet: RolloutFleet) -> None:
        """A round of groups, and who sampled them."""
        groups = await asyncio.gather(*(fleet.generate(prompt(at), SAMPLING) for at in range(NUM_GROUPS)))
        ids.extend(trajectory.id for group in groups for trajectory in group)
        workers.append({trajectory.worker for group in groups for trajectory in group})

    async def grow_and_shrink() -> None:
        fleet = RolloutFleet(replace(spec, engine=LIGHT_ENGINE))
        try:
            await fleet.start()
            await fleet.load(weights.publish(1, [named_tensors(load_policy(model))]))
            await sample(fleet)
            newcomers = [fleet.add_worker(), fleet.add_worker()]
            # While they start, the first one works on.
            await asyncio.gather(sample(fleet), *(fleet.serving(name) for name in newcomers))
            await sample(fleet)
            leaving = asyncio.ensure_future(sample(fleet))
            await asyncio.sleep(0.05)
            removals = asyncio.gather(*(fleet.remove_worker(name) for name in newcomers))
            await asyncio.sleep(0)
            seen.update({worker["name"]: worker["state"] for worker in status.workers(fleet)})
            await removals
            assert set(fleet.workers) == {"rollout-0"}
            await leaving
            await sample(fleet)
        finally:
            await fleet.close()

    asyncio.run(asyncio.wait_for(grow_and_shrink(), 240))
    expected = [f"{ordinal}.{index}" for ordinal in range(NUM_GROUPS) for index in range(4)]
    assert Counter(ids) == Counter(dict.fromkeys(expected, 5))
    assert workers[0] == workers[4] == {"rollout-0"}
    assert workers[2] == {"rollout-0", "rollout-1", "rollout-2"}
    assert workers[3] > {"rollout-0"}
    assert seen == {"rollout-0": "sampling", "rollout-1": "leaving", "rollout-2": "leaving"}
