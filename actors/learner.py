"""The learner of a run: the policy's ranks, alone or with a reference and a critic on ranks of their own.

    score    policy: old log-probs  ∥  reference: its log-probs  ∥  critic: values
    credit   policy: advantages and returns from all three
    learn    policy: its updates  ∥  critic: its own, towards the returns

Everything between the arrows of one line is done at the same time; the numbers are those of a single group.
"""

import asyncio
import logging
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from actors.lane_groups import CriticGroup, PolicyGroup, ReferenceGroup
from actors.ranks import RankGroup, TrainerGroupError, shared
from actors.trainer import TrainerGroup
from experience.records import Batch, Weights
from metrics.waits import waited
from trainers import checkpoint
from trainers.checkpoint import Written
from trainers.learner import LearnerSpec
from trainers.policy import PolicyObjective

logger = logging.getLogger(__name__)


async def start_learner(spec: LearnerSpec) -> "TrainerGroup | SpreadLearner":
    """The learner that the spec asks for, with its models loaded."""
    is_spread = spec.reference.num_ranks or (spec.critic is not None and spec.critic.num_ranks)
    return await (SpreadLearner if is_spread else TrainerGroup).start(spec)


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


# The name in trainers.lanes.Lanes of what each scores.
_LANES = {"reference": "ref_logprobs", "critic": "values"}


class SpreadLearner:
    """Several groups of ranks as one learner (trainers/roles.py). A failure in one ends them all."""

    def __init__(self, spec: LearnerSpec, groups: Groups) -> None:
        self._spec = spec
        self._groups = groups

    @classmethod
    async def start(cls, spec: LearnerSpec) -> "SpreadLearner":
        """All groups at the same time; when one can't start, all are ended."""
        starts: dict[str, Awaitable[Any]] = {"policy": PolicyGroup.start(spec)}
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

    async def update(self, batch: Batch) -> Mapping[str, float]:
        """One optimiser step a mini-batch, of the policy and of the critic; a batch without any changes nothing."""
        if not batch.mini_batches:
            logger.warning("no step taken: the batch holds no sequence to learn from")
            return {}
        batch = replace(batch, blocks=tuple(shared(batch.blocks)))
        policy, critic, others = self._groups.policy, self._groups.critic, self._groups.others
        _, *lanes = await self._together(policy.score(batch), *(group.score(batch) for group in others.values()))
        given = {_LANES[name]: lane for name, lane in zip(others, lanes, strict=True)}
        (returns,) = await self._together(policy.credit(batch, given))
        learning = [policy.learn(), *([] if critic is None else [critic.learn(batch, returns)])]
        return _merged(await self._together(*learning))

    async def publish(self, version: int) -> Weights:
        """The current weights, as rollout workers load them."""
        (published,) = await self._together(self._groups.policy.publish(version))
        return published

    async def refresh_reference(self) -> None:
        """Make the policy as it is now the reference."""
        policy, reference = self._groups.policy, self._groups.reference
        if reference is None:
            await self._together(policy.refresh_reference())
            return
        (published,) = await self._together(policy.publish_parameters())
        await self._together(reference.take(published))

    async def save(self, draft: Path) -> Written:
        """See `TrainerGroup.save`. One group after the other, so that each knows what room the last has left."""
        for group in self._groups.all:
            await self._together(group.save_part(draft))
        return Written(
            world_size=len(self._groups.policy), own_ranks=self._own_ranks(), config_digest=self._spec.config_digest
        )

    async def load(self, folder: Path) -> Mapping[str, Any]:
        """See `TrainerGroup.load`."""
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
    changes = {"num_ranks": spec.reference.num_ranks, "zero_stage": spec.reference.zero_stage}
    return replace(spec, trainer=spec.trainer.model_copy(update=changes))


def critic_spec(spec: LearnerSpec) -> LearnerSpec:
    """What the critic's own ranks are told."""
    assert isinstance(spec.objective, PolicyObjective) and spec.critic is not None
    changes = {"num_ranks": spec.critic.num_ranks, "zero_stage": spec.critic.zero_stage}
    return replace(spec, trainer=spec.trainer.model_copy(update=changes))


def _merged(reports: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The metrics of all groups; of what several measured, the least throughput and the most memory counts."""
    merged: dict[str, float] = {}
    for report in reports:
        for name, value in report.items():
            choose = min if name.startswith("throughput/") else max
            merged[name] = choose(value, merged.get(name, value))
    return merged
