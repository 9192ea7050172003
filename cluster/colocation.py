"""How the rollout fleet and the policy's ranks share the cluster: apart, or in turns on the same GPUs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from actors.fleet import RolloutFleet
from actors.learner import PolicyLearner
from actors.placement import Room, reserved
from configs.schema import RlRun
from trainers.learner import LearnerSpec
from trainers.roles import Prompts, Rewards, Roles
from trainers.turns import Turns, TurnTakingLearner, TurnTakingRollouts


class Arrangement(Protocol):
    """Where fleet and learner are, and so in which order they start and work."""

    @property
    def room(self) -> Room | None:
        """That of the fleet; None where it finds its own."""
        ...

    async def start(self, spec: LearnerSpec, fleet: RolloutFleet) -> PolicyLearner:
        """Start both."""
        ...

    async def restart(self, spec: LearnerSpec, fleet: RolloutFleet) -> PolicyLearner:
        """New ranks, beside a fleet that goes on."""
        ...

    def roles(self, prompts: Prompts, fleet: RolloutFleet, rewards: Rewards, learner: PolicyLearner) -> Roles:
        """As the loop sees them."""
        ...


class Apart:
    """Each has devices of its own."""

    room = None

    async def start(self, spec: LearnerSpec, fleet: RolloutFleet) -> PolicyLearner:
        """See Arrangement: at the same time."""
        learner, _ = await asyncio.gather(PolicyLearner.start(spec), fleet.start())
        return learner

    async def restart(self, spec: LearnerSpec, fleet: RolloutFleet) -> PolicyLearner:
        """See Arrangement."""
        return await PolicyLearner.start(spec)

    def roles(self, prompts: Prompts, fleet: RolloutFleet, rewards: Rewards, learner: PolicyLearner) -> Roles:
        """See Arrangement."""
        return Roles(prompts=prompts, rollouts=fleet, rewards=rewards, learner=learner)


class InTurns:
    """A GPU for each rank and its engine, which one of them has at a time."""

    def __init__(self, room: Room) -> None:
        self.room = room

    async def start(self, spec: LearnerSpec, fleet: RolloutFleet) -> PolicyLearner:
        """See Arrangement: one after the other, as neither leaves the memory that the other needs to start."""
        await fleet.start()
        return await self.restart(spec, fleet)

    async def restart(self, spec: LearnerSpec, fleet: RolloutFleet) -> PolicyLearner:
        """See Arrangement: what the engines leave is what new ranks take."""
        await fleet.sleep()
        return await PolicyLearner.start(spec, self.room)

    def roles(self, prompts: Prompts, fleet: RolloutFleet, rewards: Rewards, learner: PolicyLearner) -> Roles:
        """See Arrangement: the learner is awake while the fleet sleeps."""
        turns = Turns(fleet, learner)
        return Roles(
            prompts=prompts,
            rollouts=TurnTakingRollouts(fleet, turns),
            rewards=rewards,
            learner=TurnTakingLearner(learner, turns),
        )


@asynccontextmanager
async def arranged(run: RlRun, *, use_gpu: bool) -> AsyncIterator[Arrangement]:
    """As the recipe says, for as long as the run lasts.

    ValueError where they are to take turns without GPUs. PlacementRefused when there are too few.
    """
    if not run.rollout.colocated:
        yield Apart()
        return
    if not use_gpu:
        raise ValueError(
            "rollout.colocated=true: an engine on a CPU can't sleep (a capability that is absent there); "
            "set it to false"
        )
    bundle = {"CPU": run.trainer.threads_per_rank + run.rollout.cores_per_worker, "GPU": 1}
    bundles = [bundle] * run.trainer.num_ranks
    async with reserved("ranks and their engines", bundles, run.trainer.placement) as room:
        yield InTurns(room)
