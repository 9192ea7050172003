"""One prompt's group: its responses, sampled and scored together."""

import asyncio
import logging
from dataclasses import replace

from experience.records import Group, Prompt, Sampling, Scored, Trajectory
from metrics import activity
from metrics.meter import Meter
from metrics.waits import waited
from rewards.contract import RewardInput, Score, Status
from trainers.roles import Rewards, Rollouts

logger = logging.getLogger(__name__)


class GroupMaker:
    """Makes the group of a prompt; `greedy`: of the one response that each group is compared with, if it is."""

    def __init__(
        self, rollouts: Rollouts, rewards: Rewards, meter: Meter, *, sampling: Sampling, greedy: Sampling | None
    ) -> None:
        self._rollouts, self._rewards, self._meter = rollouts, rewards, meter
        self._sampling, self._greedy = sampling, greedy
        self.last_generated = 0.0  # when the newest responses came, by the meter's clock

    async def sample(self, prompt: Prompt) -> Group:
        """All responses to the prompt, scored in one go."""
        wanted = [sampling for sampling in (self._sampling, self._greedy) if sampling is not None]
        parts = await asyncio.gather(*(self._rollouts.generate(prompt, sampling) for sampling in wanted))
        self.last_generated = self._meter.now()
        activity.note("sampling")
        together = [trajectory for part in parts for trajectory in part]
        # The greedy response comes last, with an id of its own; the others are in sample order.
        trajectories = [t if t.sample_index == i else replace(t, sample_index=i) for i, t in enumerate(together)]
        verdicts = self._rewards.score([reward_input(trajectory) for trajectory in trajectories])
        scores = await waited(verdicts, what="verdicts on a group", owner="rewards", progress=activity.count)
        activity.note("scoring")
        scored = [Scored(trajectory=t, score=verdict(t, s)) for t, s in zip(trajectories, scores, strict=True)]
        num_samples = self._sampling.num_samples
        greedy = scored[num_samples] if self._greedy else None
        return Group(prompt=prompt, samples=tuple(scored[:num_samples]), greedy=greedy)


def verdict(trajectory: Trajectory, score: Score) -> Score:
    """The score, unless nothing can be learned from the sample whatever its reward."""
    if trajectory.is_sound:
        return score
    logger.warning("sample %s of %s is left out: its log-probs are not numbers", trajectory.id, trajectory.worker)
    return Score(value=None, status=Status.UNSOUND, detail=f"{trajectory.worker} gave log-probs that are not numbers")


def reward_input(trajectory: Trajectory) -> RewardInput:
    """What rewards see of a trajectory."""
    prompt = trajectory.prompt
    return RewardInput(
        prompt=prompt.text,
        response=trajectory.text,
        answer=prompt.answer,
        messages=prompt.messages,
        columns=prompt.columns,
        num_prompt_tokens=trajectory.num_prompt_tokens,
        num_response_tokens=trajectory.num_response_tokens,
        finish_reason=trajectory.finish_reason,
        id=trajectory.id,
    )
