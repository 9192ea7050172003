"""Held-out evaluation on the live rollout workers: no second model in memory."""

import asyncio
from collections.abc import Mapping, Sequence

import numpy as np

from experience.records import Prompt, Sampling
from metrics.intervals import pass_at_k, wilson
from rewards.contract import Score
from trainers.loop import reward_input
from trainers.roles import Rewards, Rollouts


async def evaluate(
    rollouts: Rollouts, rewards: Rewards, prompts: Sequence[Prompt], sampling: Sampling
) -> Mapping[str, float]:
    """Accuracy with its 95 % interval, mean reward and length; pass@k when several samples are drawn.

    A response is right when the first reward of the recipe gives it at least 1.
    """
    outcomes = await asyncio.gather(*(_evaluate_one(rollouts, rewards, prompt, sampling) for prompt in prompts))
    right = np.array([[_is_right(score) for score in scores] for scores, _ in outcomes])  # [prompts, samples]
    low, high = wilson(int(right[:, 0].sum()), len(prompts))
    values = [score.value for scores, _ in outcomes for score in scores if score.value is not None]
    metrics = {
        "eval/accuracy": float(right[:, 0].mean()),
        "eval/accuracy_low": low,
        "eval/accuracy_high": high,
        "eval/reward_mean": float(np.mean(values)) if values else 0.0,
        "eval/response_length_mean": float(np.mean([length for _, lengths in outcomes for length in lengths])),
    }
    if (k := sampling.num_samples) > 1:
        metrics["eval/pass_at_k"] = float(np.mean([pass_at_k(k, int(row.sum()), k) for row in right]))
    return metrics


async def _evaluate_one(
    rollouts: Rollouts, rewards: Rewards, prompt: Prompt, sampling: Sampling
) -> tuple[Sequence[Score], list[int]]:
    trajectories = await rollouts.generate(prompt, sampling)
    scores = await rewards.score([reward_input(trajectory) for trajectory in trajectories])
    return scores, [trajectory.num_response_tokens for trajectory in trajectories]


def _is_right(score: Score) -> bool:
    return bool(score.parts) and next(iter(score.parts.values())) >= 1.0
