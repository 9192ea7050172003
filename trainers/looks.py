"""The guard's looks: the held-out responses of the policy as it is, scored by proxy, gold and reference."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experience.blocks import BlockNumbers
from experience.packing import plan_mini_batches
from experience.records import Batch, Item, Prompt, Sampling, Trajectory
from metrics import activity
from metrics.waits import waited
from rewards.contract import Score
from rewards.health import check_failures
from rewards.repetition import repeated_share
from trainers.credit import BatchShape
from trainers.groups import reward_input, verdict
from trainers.guard import GOLD, KL, LENGTH, PROXY, REPETITION, Look
from trainers.roles import Learner, Rewards, Roles

# P prompts, N responses to each


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """What is looked at, always the same: prompts, how they are sampled, and what share of verdicts may fail."""

    prompts: Sequence[Prompt]
    sampling: Sampling
    max_error_rate: float


class Onlooker:
    """Looks at the policy that the rollout workers hold. `measures_kl`: by a reference that the learner has."""

    def __init__(self, slice_: Slice, roles: Roles, gold: Rewards, shape: BatchShape, *, measures_kl: bool) -> None:
        self._slice, self._gold = slice_, gold
        self._rollouts, self._proxy, self._learner = roles.rollouts, roles.rewards, roles.learner
        self._shape = shape
        self._measures_kl = measures_kl

    async def look(self, step: int) -> Look:
        """Sample and score the slice. RewardError when too many verdicts fail."""
        looking = asyncio.gather(*(self._one(prompt) for prompt in self._slice.prompts))
        rows = await waited(looking, what="the guard's look", owner="sampling and scoring", progress=activity.count)
        trajectories = [trajectory for row, _, _ in rows for trajectory in row]
        proxies = [score for _, row, _ in rows for score in row]
        golds = [score for _, _, row in rows for score in row]
        for scores in (proxies, golds):
            check_failures([reward_input(t) for t in trajectories], scores, self._slice.max_error_rate)
        values = {
            PROXY: _values(proxies),
            GOLD: _values(golds),
            LENGTH: np.array([float(t.num_response_tokens) for t in trajectories]),
            REPETITION: np.array([repeated_share(t.text) for t in trajectories]),
        }
        if self._measures_kl:
            values[KL] = await _divergences(self._learner, trajectories, self._shape)
        return Look(
            step=step,
            columns={name: self._by_prompt(column) for name, column in values.items()},
            deviations={name: _deviation(values[name]) for name in (PROXY, GOLD)},
        )

    async def _one(self, prompt: Prompt) -> tuple[Sequence[Trajectory], Sequence[Score], Sequence[Score]]:
        trajectories = await self._rollouts.generate(prompt, self._slice.sampling)
        items = [reward_input(trajectory) for trajectory in trajectories]
        found = await asyncio.gather(self._proxy.score(items), self._gold.score(items))
        activity.note("looking")
        proxy, gold = ([verdict(t, s) for t, s in zip(trajectories, scores, strict=True)] for scores in found)
        return trajectories, proxy, gold

    def _by_prompt(self, values: NDArray[np.float64]) -> list[float]:
        """[P]: the means over each prompt's responses that have a number; NaN where none has."""
        rows = values.reshape(len(self._slice.prompts), -1)
        known = ~np.isnan(rows)
        sums, counts = np.where(known, rows, 0.0).sum(axis=1), known.sum(axis=1)
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan).tolist()


def _values(scores: Sequence[Score]) -> NDArray[np.float64]:
    return np.array([np.nan if score.value is None else score.value for score in scores], dtype=np.float64)


def _deviation(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.std()) if len(known) else 0.0


async def _divergences(learner: Learner, trajectories: Sequence[Trajectory], shape: BatchShape) -> NDArray[np.float64]:
    """Of each response from the reference; NaN for one that is empty or whose log-probs are no numbers."""
    blocks = BlockNumbers()
    items = [
        Item(
            block=blocks.number(t.block), row=t.row, num_tokens=t.num_tokens, num_loss_tokens=t.num_response_tokens
        )
        for t in trajectories
    ]  # fmt: skip
    usable = [item for item, t in zip(items, trajectories, strict=True) if t.is_sound and t.num_response_tokens]
    plan = plan_mini_batches(
        [usable],
        num_mini_batches=1,
        num_ranks=shape.num_ranks,
        tokens_per_micro_batch=shape.tokens_per_micro_batch,
    )
    found: Mapping[tuple[int, int], float] = {}
    if plan:
        found = await learner.divergences(Batch(blocks=blocks.handles, mini_batches=plan))
    return np.array([found.get((item.block, item.row), np.nan) for item in items])
