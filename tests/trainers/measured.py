"""Responses to a data set, made up: what an evaluation's numbers are tested on."""

from collections.abc import Sequence

import numpy as np

from experience.records import Prompt, Trajectory
from rewards.contract import Score, Status
from trainers.benchmark import Measured, Responses
from trainers.evaluation import Answers


def prompt(row: int) -> Prompt:
    return Prompt(
        ordinal=row, epoch=0, row=row, tokens=np.arange(3, dtype=np.int32), text=f"question {row}", answer=str(row)
    )


def trajectory(of: Prompt, index: int = 0, text: str = "", *, is_cut: bool = False) -> Trajectory:
    return Trajectory(
        prompt=of, sample_index=index, block=None, row=0, num_prompt_tokens=3, num_response_tokens=2, text=text,
        finish_reason="length" if is_cut else "stop", min_version=0, max_version=0, mean_logprob=-1.0, worker="w",
    )  # fmt: skip


def responses(
    is_right: Sequence[Sequence[int]],
    classes: Sequence[Sequence[int | None]] | None = None,
    scores: Sequence[Sequence[float]] | None = None,
    *,
    failed: Sequence[int] = (),
) -> Responses:
    """`is_right`: [P][N], also the rewards. `failed`: prompts whose verdicts failed."""
    right = np.array(is_right, dtype=bool)
    statuses = [Status.ERROR if row in failed else Status.OK for row in range(len(right))]
    answers = Answers(
        is_right=right,
        trajectories=tuple(
            tuple(trajectory(prompt(row), index, f"r{row}.{index}") for index in range(right.shape[1]))
            for row in range(len(right))
        ),
        scores=tuple(
            tuple(Score(value=None if status.is_failure else float(one), status=status) for one in row)
            for row, status in zip(right, statuses, strict=True)
        ),
    )
    return Responses(
        answers=answers,
        marked=None if classes is None else [[None if c is None else f"a{c}" for c in row] for row in classes],
        classes=classes,
        scores=None if scores is None else np.array(scores, dtype=np.float64),
    )


def measured(name: str, greedy: Responses, sampled: Responses | None = None) -> Measured:
    prompts = [prompt(row) for row in range(len(greedy.answers.is_right))]
    return Measured(name=name, prompts=prompts, greedy=greedy, sampled=sampled)
