"""What every judge says of a data set's responses, with made-up workers and judges."""

import asyncio
from collections.abc import Sequence

import numpy as np

from experience.records import Prompt, Sampling, Trajectory
from rewards.contract import RewardInput, Score, Status
from rewards.marked import reading_of
from tests.trainers.measured import prompt, trajectory
from trainers.benchmark import Judges, Measured, Responses, respond, with_scores

PROMPTS = [prompt(row) for row in range(3)]


class Workers:
    """Answer with the prompt's row, the sample's index, or nothing."""

    async def generate(self, prompt: Prompt, sampling: Sampling) -> tuple[Trajectory, ...]:
        texts = [f"\\boxed{{{prompt.row}}}", f"\\boxed{{{prompt.row}.0}}", "I do not know"]
        return tuple(trajectory(prompt, index, texts[index]) for index in range(sampling.num_samples))


class Rule:
    """Right is who says the gold."""

    async def score(self, items: Sequence[RewardInput]) -> list[Score]:
        return [Score(value=1.0, parts={"rule": float(str(item.answer) in item.response)}) for item in items]


class Scorer(Rule):
    """Scores by the length of a response, and fails on the second prompt's."""

    def check(self, items: Sequence[RewardInput]) -> None:
        """Takes anything."""

    async def score(self, items: Sequence[RewardInput]) -> list[Score]:
        return [
            Score(value=None, status=Status.ERROR) if item.answer == "1" else Score(value=float(len(item.response)))
            for item in items
        ]


def responses(judges: Judges) -> Responses:
    sampling = Sampling(num_samples=3, max_response_tokens=4, temperature=1.0, seed=0)
    return asyncio.run(respond(Workers(), judges, PROMPTS, sampling))  # type: ignore[arg-type]


def test_every_judge_sees_every_response_at_its_place() -> None:
    found = responses(Judges(rewards=Rule(), reading=reading_of("math", None), same=Rule()))
    assert found.answers.is_right.tolist() == [[True, True, False]] * 3
    assert found.marked == [["0", "0.0", None], ["1", "1.0", None], ["2", "2.0", None]]
    assert found.classes == [[0, 0, None]] * 3
    assert found.num_uncompared == 0


def test_where_nothing_says_how_answers_are_read_there_are_none() -> None:
    found = responses(Judges(rewards=Rule(), reading=None, same=None))
    assert (found.marked, found.classes, found.scores) == (None, None, None)


def test_a_reward_model_scores_greedy_and_sampled_responses() -> None:
    found = responses(Judges(rewards=Rule(), reading=None, same=None))
    measured = asyncio.run(with_scores(Measured(name="set", prompts=PROMPTS, greedy=found, sampled=found), Scorer()))
    for part in measured.parts.values():
        assert part.scores is not None
        assert np.array_equal(part.scores, [[9, 11, 13], [np.nan] * 3, [9, 11, 13]], equal_nan=True)
    alone = asyncio.run(with_scores(Measured(name="set", prompts=PROMPTS, greedy=found, sampled=None), Scorer()))
    assert alone.sampled is None and alone.greedy.scores is not None
