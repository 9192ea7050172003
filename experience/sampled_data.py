"""Sampled and scored responses made into data to learn from: comparisons, and responses to imitate."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One response. `reward`: None where it could not be scored; `parts`: each reward's own value."""

    response: str
    reward: float | None
    parts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledPrompt:
    """A prompt as the data set has it (a text or messages), its place in the order, and all its samples."""

    ordinal: int
    prompt: Any
    answer: str | None
    samples: tuple[Sample, ...]

    @property
    def different(self) -> list[Sample]:
        """The scored samples that say something, each text once."""
        first: dict[str, Sample] = {}
        for sample in self.samples:
            if sample.reward is not None and sample.response.strip():
                first.setdefault(sample.response.strip(), sample)
        return list(first.values())


def comparison(sampled: SampledPrompt, *, temperature: float, seed: int) -> dict[str, Any] | None:
    """A row for `stage: reward_model`: the different responses and their ratings; None where no two ratings differ.

    A rating is the reward plus `temperature` times a draw of the standard Gumbel distribution, so that a is rated above
    b with probability sigmoid((reward a - reward b) / temperature), the Bradley-Terry model, and the labels of all
    pairs come from one ranking (Plackett-Luce; Yellott 1977). All pairs of a prompt stay together in its row, as
    InstructGPT has them (arXiv:2203.02155, section 3.5).
    """
    samples = sampled.different
    rewards = np.array([sample.reward for sample in samples], dtype=np.float64)
    noise = np.random.default_rng((seed, sampled.ordinal)).gumbel(size=len(samples))
    ratings = rewards + temperature * noise if temperature else rewards
    if len(set(ratings.tolist())) < 2:
        return None
    return {
        "prompt": sampled.prompt,
        "answer": sampled.answer,
        "responses": [sample.response for sample in samples],
        "ratings": ratings.tolist(),
        "rewards": rewards.tolist(),
    }


def share_of_flipped_pairs(rows: Sequence[Mapping[str, Any]]) -> float:
    """Of the pairs with different rewards, those that the ratings have the other way round."""
    differ = flipped = 0
    for row in rows:
        rewards, ratings = np.array(row["rewards"]), np.array(row["ratings"])
        true = np.sign(rewards[:, None] - rewards[None])
        differ += int((true != 0).sum())
        flipped += int((true * np.sign(ratings[:, None] - ratings[None]) < 0).sum())
    return flipped / differ if differ else 0.0


def imitable(
    sampled: SampledPrompt, *, threshold: float, is_readable: Callable[[Sample], bool], at_most: int
) -> list[dict[str, Any]]:
    """Rows for `stage: sft`: the first `at_most` different responses that are right and readable.

    Rejection sampling as in DeepSeek-R1 (arXiv:2501.12948, section 2.3.3).
    """
    right = [sample for sample in sampled.different if sample.reward is not None and sample.reward >= threshold]
    return [
        {"prompt": sampled.prompt, "answer": sampled.answer, "response": sample.response, "reward": sample.reward}
        for sample in [sample for sample in right if is_readable(sample)][:at_most]
    ]
