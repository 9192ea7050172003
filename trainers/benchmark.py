"""A model's responses to a data set, with all that is said of each: verdict, answer, vote, reward model's score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from experience.records import Prompt, Sampling
from metrics import activity
from metrics.waits import waited
from rewards.contract import RewardInput, Scorer
from rewards.marked import Reading, marked_answer
from trainers.evaluation import Answers, answer
from trainers.groups import reward_input
from trainers.roles import Rewards, Rollouts
from trainers.votes import Ballot, all_classes

# P prompts, N responses to each


@dataclass(frozen=True, slots=True, kw_only=True)
class Judges:
    """Who looks at responses.

    `reading`: how answers are read; None: there are no votes. `same`: who says which answers are one, as `Ballot` asks
    it.
    """

    rewards: Rewards
    reading: Reading | None
    same: Rewards | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Responses:
    """N responses to each of P prompts.

    `marked`, `classes`: [P][N], the answer that each gives and its class among those to its prompt, None for no
    answer; None as a whole where nothing says how answers are read. `num_uncompared`: comparisons of answers that
    failed, and count as "different". `scores`: [P, N], NaN where the reward model failed; None without one.
    """

    answers: Answers
    marked: Sequence[Sequence[str | None]] | None
    classes: Sequence[Sequence[int | None]] | None
    num_uncompared: int = 0
    scores: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one model answered to one data set, called `name`. `beam`: the best response of a beam search."""

    name: str
    prompts: Sequence[Prompt]
    greedy: Responses
    sampled: Responses | None = None
    beam: Responses | None = None

    @property
    def parts(self) -> Mapping[str, Responses]:
        """The responses by kind, those that there are."""
        kinds = {"greedy": self.greedy, "sampled": self.sampled, "beam": self.beam}
        return {name: part for name, part in kinds.items() if part is not None}


async def respond(rollouts: Rollouts, judges: Judges, prompts: Sequence[Prompt], sampling: Sampling) -> Responses:
    """Sample, and have every judge look at what was sampled."""
    answers = await answer(rollouts, judges.rewards, prompts, sampling)
    items = _items(answers)
    reading, ballot = judges.reading, Ballot(judges.same)
    marked = None if reading is None else [[marked_answer(item, reading) for item in row] for row in items]
    return Responses(
        answers=answers,
        marked=marked,
        classes=None if marked is None else await all_classes(ballot, marked),
        num_uncompared=ballot.num_failed,
    )


async def with_scores(measured: Measured, scorer: Scorer) -> Measured:
    """The same, with a reward model's score of every response."""
    parts = measured.parts.items()
    scored = {kind: replace(part, scores=await _scores(scorer, _items(part.answers))) for kind, part in parts}
    return replace(measured, **scored)


async def _scores(scorer: Scorer, items: Sequence[Sequence[RewardInput]]) -> NDArray[np.float64]:
    """[P, N]"""
    asked = scorer.score([item for row in items for item in row])
    scores = await waited(asked, what="scores", owner="reward model", progress=activity.count)
    values = [float("nan") if score.value is None else score.value for score in scores]
    return np.array(values, dtype=np.float64).reshape(len(items), -1)


def _items(answers: Answers) -> list[list[RewardInput]]:
    return [[reward_input(trajectory) for trajectory in row] for row in answers.trajectories]
