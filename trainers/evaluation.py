"""Held-out evaluation on live rollout workers: no second model in memory."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experience.records import Prompt, Sampling, Trajectory
from metrics import activity
from metrics.intervals import pass_at_k, wilson
from metrics.waits import waited
from rewards.contract import Score
from trainers.groups import reward_input
from trainers.roles import Rewards, Rollouts


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """The responses to P prompts, N each, and what the rewards say of them.

    `is_right` [P, N]: the first reward of the recipe gives the response at least 1.
    """

    is_right: NDArray[np.bool_]
    trajectories: tuple[tuple[Trajectory, ...], ...]
    scores: tuple[tuple[Score, ...], ...]

    @property
    def rewards(self) -> NDArray[np.float64]:
        """[P, N]: the weighted sums, NaN where a response could not be scored."""
        return np.array([[_or_nan(score.value) for score in row] for row in self.scores], dtype=np.float64)

    @property
    def accuracy(self) -> float:
        """Share of right responses."""
        return float(self.is_right.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy of single responses (Wilson)."""
        return wilson(int(self.is_right[:, 0].sum()), len(self.is_right))

    def pass_at(self, k: int) -> float:
        """Mean over prompts of the unbiased pass@k."""
        num_samples = self.is_right.shape[1]
        return float(np.mean([pass_at_k(num_samples, int(row.sum()), k) for row in self.is_right]))


async def answer(rollouts: Rollouts, rewards: Rewards, prompts: Sequence[Prompt], sampling: Sampling) -> Answers:
    """Sample and score every prompt; the workers take them as they have room."""

    async def one(prompt: Prompt) -> tuple[tuple[Trajectory, ...], tuple[Score, ...]]:
        trajectories = await rollouts.generate(prompt, sampling)
        scores = tuple(await rewards.score([reward_input(t) for t in trajectories]))
        activity.note("evaluating")
        return trajectories, scores

    answers = asyncio.gather(*(one(prompt) for prompt in prompts))
    answered = await waited(answers, what="held-out answers", owner="sampling and scoring", progress=activity.count)
    scores = tuple(scores for _, scores in answered)
    return Answers(
        is_right=np.array([[_is_right(score) for score in row] for row in scores], dtype=bool),
        trajectories=tuple(trajectories for trajectories, _ in answered),
        scores=scores,
    )


def held_out_metrics(answers: Answers) -> Mapping[str, float]:
    """Accuracy with its interval, mean reward and length; pass@k of all samples where there are several."""
    low, high = answers.interval
    values = [score.value for row in answers.scores for score in row if score.value is not None]
    lengths = [trajectory.num_response_tokens for row in answers.trajectories for trajectory in row]
    metrics = {
        "eval/accuracy": answers.accuracy,
        "eval/accuracy_low": low,
        "eval/accuracy_high": high,
        "eval/reward_mean": float(np.mean(values)) if values else float("nan"),
        "eval/response_length_mean": float(np.mean(lengths)),
    }
    num_samples = answers.is_right.shape[1]
    return metrics | ({"eval/pass_at_k": answers.pass_at(num_samples)} if num_samples > 1 else {})


def held_out_by_prompt(answers: Answers) -> Mapping[str, Sequence[float]]:
    """[P] of the metrics that are means over prompts, so that two evaluations make pairs; NaN for a prompt without."""
    num_samples = answers.is_right.shape[1]
    values = [[score.value for score in row if score.value is not None] for row in answers.scores]
    columns = {
        "eval/accuracy": answers.is_right.mean(axis=1).tolist(),
        "eval/reward_mean": [float(np.mean(row)) if row else float("nan") for row in values],
    }
    if num_samples == 1:
        return columns
    return {**columns, "eval/pass_at_k": [float(row.any()) for row in answers.is_right]}


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _is_right(score: Score) -> bool:
    return bool(score.parts) and next(iter(score.parts.values())) >= 1.0
