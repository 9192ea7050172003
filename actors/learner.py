"""The learner of a run: the policy's ranks, alone or with a reference and a critic on ranks of their own.

    score    policy: old log-probs  ∥  reference: its log-probs  ∥  critic: values
    credit   policy: advantages and returns from all three
    learn    policy: its updates  ∥  critic: its own, towards the returns

Everything in one line is done at the same time; the numbers are those of a single group. Sequences may be scored part
by part while others of their step are still being sampled; what is found is kept until the update.
"""

import asyncio
import logging
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from actors.lane_groups import CriticGroup, Lane, LanesByName, PolicyGroup, ReferenceGroup
from actors.placement import Room
from actors.ranks import RankGroup, TrainerGroupError, shared
from experience.columns import Place
from experience.records import Batch, Weights
from metrics.waits import waited
from trainers import checkpoint
from trainers.checkpoint import Written
from trainers.learner import LearnerSpec
from trainers.policy import PolicyObjective

logger = logging.getLogger(__name__)


# The name in trainers.lanes.Lanes of what each group beside the policy's scores.
_LANES = {"reference": "ref_logprobs", "critic": "values"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """Every group of ranks; None: that model is on the policy's, or there is none."""

    policy: PolicyGroup
    reference: ReferenceGroup | None
    critic: CriticGroup | None

    @property
    def others(self) -> Mapping[str, ReferenceGroup | CriticGroup]:
        """Those beside the policy's, by their section in the recipe."""
        found = {"reference": self.reference, "critic": self.critic}
        return {name: group for name, group in found.items() if group is not None}

    @property
    def all(self) -> Sequence[RankGroup]:
        """The policy's first."""
        return [self.policy, *self.others.values()]


class PolicyLearner:
    """All groups of ranks as one learner (trainers/roles.py). A failure in one ends them all."""

    def __init__(self, spec: LearnerSpec, groups: Groups) -> None:
        assert isinstance(spec.objective, PolicyObjective)
        self._spec = spec
        self._groups = groups
        self._algorithm = spec.objective.algorithm
        self._lanes: dict[str, Lane] = {}  # what was scored since the last update

    @classmethod
    async def start(cls, spec: LearnerSpec, room: Room | None = None) -> Self:
        """All groups at the same time; when one can't start, all are ended. `room`: the policy's (RankGroup.start)."""
        starts: dict[str, Awaitable[Any]] = {"policy": PolicyGroup.start(spec, room)}
        if spec.reference.num_ranks:
            starts["reference"] = ReferenceGroup.start(reference_spec(spec))
        if spec.critic is not None and spec.critic.num_ranks:
            starts["critic"] = CriticGroup.start(critic_spec(spec))
        started = dict(zip(starts, await asyncio.gather(*starts.values(), return_exceptions=True), strict=True))
        errors = [error for error in started.values() if isinstance(error, BaseException)]
        if errors:
            for group in started.values():
                if isinstance(group, RankGroup):
                    group.close()
            raise errors[0]
        return cls(spec, Groups(**{"reference": None, "critic": None, **started}))

    @property
    def scores_first(self) -> bool:
        """Whether any model is asked about a batch before the first update on it."""
        return bool(self._lanes_of(self._spec.updates_per_batch))

    async def score(self, batch: Batch) -> None:
        """Have the models that the algorithm needs score these sequences as they are now, for the next `update`.

        That may cut them in another way, together with others; it must have the same numbers for their blocks.
        """
        found = await self._scored(batch, self._lanes_of(self._spec.updates_per_batch))
        self._lanes = {name: self._lanes[name] + lane if name in self._lanes else lane for name, lane in found.items()}

    async def update(self, batch: Batch) -> Mapping[str, float]:
        """One optimiser step a mini-batch, of the policy and of the critic; a batch without any changes nothing.

        What was not scored before is scored now.
        """
        lanes, self._lanes = self._lanes, {}
        if not batch.mini_batches:
            logger.warning("no step taken: the batch holds no sequence to learn from")
            return {}
        needed = self._lanes_of(len(batch.updates))
        is_scored = all(name in lanes and lanes[name].covers(batch) for name in needed)
        if not is_scored and not self._groups.others:
            return (await self._together(self._groups.policy.update(batch)))[0]
        batch = replace(batch, blocks=tuple(shared(batch.blocks)))
        if not is_scored:
            lanes = await self._scored(batch, needed)
        return await self._learn(batch, {name: lanes[name] for name in needed})

    async def _scored(self, batch: Batch, needed: Sequence[str]) -> LanesByName:
        policy, others = self._groups.policy, self._groups.others
        is_old_needed = "old_logprobs" in needed
        on_others = {_LANES[name] for name in others}
        calls = [group.score(batch) for name, group in others.items() if _LANES[name] in needed]
        if set(needed) - on_others:
            calls.append(policy.score(batch, is_old_needed=is_old_needed))
        return {name: lane for found in await self._together(*calls) for name, lane in found.items()}

    async def _learn(self, batch: Batch, lanes: LanesByName) -> Mapping[str, float]:
        policy, critic = self._groups.policy, self._groups.critic
        if critic is None:
            return (await self._together(policy.learn_from(batch, lanes)))[0]
        (returns,) = await self._together(policy.credit(batch, lanes))
        return _merged(await self._together(policy.learn(), critic.learn(batch, lanes["values"], returns)))

    def _lanes_of(self, num_updates: int) -> Sequence[str]:
        """What the algorithm must know before the first of so many updates on a batch, by the names in Lanes."""
        algorithm = self._algorithm
        needs = {
            "old_logprobs": algorithm.needs_old_logprobs(num_updates),
            "ref_logprobs": algorithm.needs_reference,
            "values": algorithm.needs_critic,
        }
        return [name for name, is_needed in needs.items() if is_needed]

    async def divergences(self, batch: Batch) -> Mapping[Place, float]:
        """An estimate of KL(policy || reference) for each sequence of `batch`, by its place: see the trainers' room."""
        holder = self._groups.reference or self._groups.policy
        return (await self._together(holder.divergences(replace(batch, blocks=tuple(shared(batch.blocks))))))[0]

    async def publish(self, version: int) -> Weights:
        """The current weights, as rollout workers load them."""
        (published,) = await self._together(self._groups.policy.publish(version))
        return published

    async def offload(self) -> None:
        """See `RankGroup.offload`, of the policy's ranks: the others share their devices with nobody."""
        await self._together(self._groups.policy.offload())

    async def reload(self) -> None:
        """See `RankGroup.reload`."""
        await self._together(self._groups.policy.reload())

    async def refresh_reference(self) -> None:
        """Make the policy as it is now the reference."""
        policy, reference = self._groups.policy, self._groups.reference
        if reference is None:
            await self._together(policy.refresh_reference())
            return
        (published,) = await self._together(policy.publish_parameters())
        await self._together(reference.take(published))

    async def save(self, draft: Path) -> Written:
        """Write the models into a checkpoint's draft. OSError when the disk has no room: training may go on.

        One group after the other, so that each knows what room the last has left.
        """
        for group in self._groups.all:
            await self._together(group.save_part(draft))
        return Written(
            world_size=len(self._groups.policy), own_ranks=self._own_ranks(), config_digest=self._spec.config_digest
        )

    async def load(self, folder: Path) -> Mapping[str, Any]:
        """Go on from a checkpoint; returns the `state` it was saved with. CheckpointError when it is damaged."""
        verified = asyncio.to_thread(checkpoint.verify, folder)
        manifest = await waited(verified, what=f"the checksums of {folder.name}", owner="disk")
        checkpoint.check_ranks(folder, manifest, self._own_ranks())
        loads = [self._groups.policy.load_part(folder, manifest.world_size)]
        loads += [group.load_part(folder, manifest.own_ranks[name]) for name, group in self._groups.others.items()]
        await self._together(*loads)
        return checkpoint.read_state(folder)

    async def export(self, folder: Path) -> None:
        """Write the policy in Hugging Face format."""
        await self._together(self._groups.policy.export(folder))

    def close(self, reason: str = "the learner was closed") -> None:
        """End all ranks of all groups."""
        for group in self._groups.all:
            group.close(reason)

    def _own_ranks(self) -> dict[str, int]:
        return {name: len(group) for name, group in self._groups.others.items()}

    async def _together(self, *calls: Awaitable[Any]) -> list[Any]:
        """What the groups' calls give. The first TrainerGroupError ends every group, and is what they all tell."""
        try:
            return await asyncio.gather(*calls)
        except TrainerGroupError as error:
            self.close(str(error))
            raise


def reference_spec(spec: LearnerSpec) -> LearnerSpec:
    """What the reference's own ranks are told."""
    own = spec.reference
    changes = {"num_ranks": own.num_ranks, "zero_stage": own.zero_stage, "placement": own.placement}
    return replace(spec, trainer=spec.trainer.model_copy(update=changes))


def critic_spec(spec: LearnerSpec) -> LearnerSpec:
    """What the critic's own ranks are told."""
    assert isinstance(spec.objective, PolicyObjective) and spec.critic is not None
    own = spec.critic
    changes = {"num_ranks": own.num_ranks, "zero_stage": own.zero_stage, "placement": own.placement}
    return replace(spec, trainer=spec.trainer.model_copy(update=changes))


def _merged(reports: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The metrics of all groups; of what several measured, the least throughput and the most memory counts."""
    merged: dict[str, float] = {}
    for report in reports:
        for name, value in report.items():
            choose = min if name.startswith("throughput/") else max
            merged[name] = choose(value, merged.get(name, value))
    return merged
