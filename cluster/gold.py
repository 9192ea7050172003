"""What a guarded run has besides: the gold scorers, and the guard joined to the run's parts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster import rl_specs
from cluster.folder import RunFolder
from cluster.guarding import Guard, Hands
from cluster.learned_rewards import LearnedRewards
from configs.schema import RlRun
from experience.records import Prompt
from rewards.contract import RewardError, RewardInput
from rewards.pool import RewardPool
from trainers.credit import CreditAssigner
from trainers.looks import Onlooker, Slice
from trainers.loop import Loop
from trainers.roles import Roles
from trainers.saving import Saver


class GoldScorers:
    """The processes and reward models of `guard.gold`, apart from those of the rewards; none without a guard."""

    def __init__(self, run: RlRun) -> None:
        gold = () if run.guard is None else run.guard.gold
        self._learned = LearnedRewards(gold, run.reward_model, prefix="gold-")
        self.pool = RewardPool(gold, run.reward_pool, scorers=self._learned.fleets) if gold else None

    @property
    def described(self) -> Mapping[str, Any]:
        """Who to ask how it stands, by name."""
        fleets = {f"gold {name}": fleet for name, fleet in self._learned.fleets.items()}
        return fleets if self.pool is None else {"gold pool": self.pool, **fleets}

    def check(self, rows: Sequence[RewardInput]) -> None:
        """Start the processes and try every scorer on these. RewardError when one is unfit."""
        if self.pool is None:
            return
        try:
            self.pool.start(rows)
        except RewardError as error:
            raise RewardError(f"guard.gold: {error}") from error

    def close_pool(self) -> None:
        """End the processes."""
        if self.pool is not None:
            self.pool.close()

    async def start(self, *, use_gpu: bool) -> None:
        """Load the reward models."""
        await self._learned.start(use_gpu=use_gpu)

    async def close(self) -> None:
        """End the reward models."""
        await self._learned.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardedParts:
    """What a guard watches and acts on."""

    roles: Roles
    loop: Loop
    assigner: CreditAssigner
    saver: Saver


def make_guard(run: RlRun, prompts: Sequence[Prompt], folder: RunFolder, parts: GuardedParts) -> Guard | None:
    """The guard that the recipe asks for; `prompts`: what it looks at."""
    config, roles = run.guard, parts.roles
    if config is None:
        return None
    assert roles.gold is not None, "a guarded run has gold scorers"
    slice_ = Slice(
        prompts=prompts,
        sampling=rl_specs.guard_sampling(run, config),
        max_error_rate=run.reward_pool.max_error_rate,
    )
    looks = Onlooker(slice_, roles, roles.gold, parts.assigner.shape, measures_kl=config.measure_kl)
    hands = Hands(
        checkpoints=folder.checkpoints,
        keeps_best=run.checkpoint.keep_best > 0,
        end=parts.loop.stop,
        tighten_kl=parts.assigner.tighten_kl,
        settled=parts.saver.settled,
        load=roles.learner.load,
        publish=lambda: parts.loop.publish(parts.loop.step + 1),
    )
    return Guard(config, looks, hands, has_kl=parts.assigner.has_kl, num_steps=run.num_steps)
