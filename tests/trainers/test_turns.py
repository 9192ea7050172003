"""Learner and rollout workers that take turns, under the very loop of those that don't."""

import asyncio
from pathlib import Path

from tests.cluster.light_loops import make_loop
from tests.trainers.test_loop import Keeper, Recorder, Sampler
from trainers.checkpoint import Written
from trainers.turns import Turns, TurnTakingLearner, TurnTakingRollouts


class Sleeper(Sampler):
    """Forgets its weights when it sleeps."""

    async def sleep(self) -> None:
        self.version = -1
        self.events.append("sleep")


class Mover(Recorder):
    """Tells when it moves."""

    async def offload(self) -> None:
        self.events.append("offload")

    async def reload(self) -> None:
        self.events.append("reload")

    async def save(self, draft: Path) -> Written:
        self.events.append("save")
        return Written(world_size=1, config_digest="")


class Saving(Keeper):
    """Saves after the first step."""

    def __init__(self, learner: TurnTakingLearner) -> None:
        super().__init__()
        self.learner = learner

    async def after_step(self, step: int) -> None:
        if step == 1:
            await self.learner.save(Path("draft"))


def test_each_has_the_devices_when_it_works_and_a_save_takes_them_back() -> None:
    events: list[str] = []
    sampler, mover = Sleeper(events), Mover(events)
    turns = Turns(sampler, mover)
    learner = TurnTakingLearner(mover, turns)
    loop = make_loop(steps=2, rollouts=TurnTakingRollouts(sampler, turns), learner=learner)
    keeper = Saving(learner)
    asyncio.run(loop.run(keeper))
    assert events == [
        *("offload", "load 0"),
        *("sleep", "reload", "update", "offload", "load 1"),
        *("sleep", "reload", "save", "offload", "load 1"),
        *("sleep", "reload", "update", "offload", "load 2"),
    ]
    assert keeper.ordinals == [[0, 1], [2, 3]]
    assert all(metrics["time/turns"] >= 0 for metrics in keeper.metrics)
