"""A stored step as the groups that it was made of: what replaying it begins with."""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from experience.records import Group, Prompt, Scored, TokenBlock, Trajectory
from experience.store import read_trajectories
from rewards.contract import Score, Status

_Row = Mapping[str, Any]


def read_groups(path: Path, prompt_at: Callable[[int], Prompt] | None = None) -> tuple[Group, ...]:
    """The groups of a file of `write_trajectories`, in order, all tokens in one block; DataError for other files.

    `prompt_at`: the prompt of an ordinal. Without it, prompts come as they are stored: without their messages and
    columns, which rewards have seen already.
    """
    rows: list[_Row] = read_trajectories(path).to_pylist()
    block = _block(rows)
    numbered = groupby(enumerate(rows), key=lambda numbered: numbered[1]["ordinal"])
    found = [list(members) for _, members in numbered]
    prompts = [_prompt(first) if prompt_at is None else prompt_at(first["ordinal"]) for (_, first), *_ in found]
    return tuple(_group(prompt, members, block) for prompt, members in zip(prompts, found, strict=True))


def _prompt(row: _Row) -> Prompt:
    return Prompt(
        ordinal=row["ordinal"],
        epoch=row["epoch"],
        row=row["row"],
        tokens=np.array(row["prompt_tokens"], dtype=np.int32),
        text=row["prompt"],
        answer=row["answer"],
    )


def _group(prompt: Prompt, members: Sequence[tuple[int, _Row]], block: TokenBlock) -> Group:
    first = members[0][1]
    samples = tuple(_scored(prompt, number, row, block) for number, row in members)
    greedy = None
    if first["greedy_reward"] is not None:
        # Its tokens were not kept: nothing but its reward is ever looked at again.
        greedy = Scored(trajectory=samples[0].trajectory, score=Score(value=first["greedy_reward"]))
    return Group(prompt=prompt, samples=samples, greedy=greedy)


def _scored(prompt: Prompt, number: int, row: _Row, block: TokenBlock) -> Scored:
    trajectory = Trajectory(
        prompt=prompt,
        sample_index=row["sample_index"],
        block=block,
        row=number,
        num_prompt_tokens=len(row["prompt_tokens"]),
        num_response_tokens=len(row["response_tokens"]),
        text=row["response"],
        finish_reason=row["finish_reason"],
        min_version=row["min_version"],
        max_version=row["max_version"],
        mean_logprob=float(np.mean(row["rollout_logprobs"])) if row["rollout_logprobs"] else 0.0,
        worker=row["worker"],
    )
    score = Score(
        value=row["reward"], status=Status(row["status"]), detail=row["detail"], parts=dict(row["reward_parts"])
    )
    return Scored(trajectory=trajectory, score=score)


def _block(rows: Sequence[_Row]) -> TokenBlock:
    def joined(name: str, before: float, dtype: Any) -> Any:
        """The column's response tokens, with `before` on the prompt's."""
        parts = [[before] * len(row["prompt_tokens"]) + row[name] for row in rows]
        return np.array([value for part in parts for value in part], dtype=dtype)

    lengths = [len(row["prompt_tokens"]) + len(row["response_tokens"]) for row in rows]
    tokens = [token for row in rows for token in (*row["prompt_tokens"], *row["response_tokens"])]
    return TokenBlock(
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        tokens=np.array(tokens, dtype=np.int32),
        response_mask=joined("response_mask", False, np.bool_),
        rollout_logprobs=joined("rollout_logprobs", 0.0, np.float32),
        versions=joined("versions", -1, np.int32),
    )
