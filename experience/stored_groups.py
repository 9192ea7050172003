"""A stored step as the groups that it was made of: what replaying it begins with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from experience.records import Group, Prompt, Scored, TokenBlock, Trajectory
from experience.store import SCHEMA, read_trajectories
from rewards.contract import Score, Status

_Row = Mapping[str, Any]
_ROW_COLUMNS = [field.name for field in SCHEMA if not pa.types.is_list(field.type)]


def read_groups(path: Path, prompt_at: Callable[[int], Prompt] | None = None) -> tuple[Group, ...]:
    """The groups of a file of `write_trajectories`, in order, all tokens in one block; DataError for other files.

    `prompt_at`: the prompt of an ordinal. Without it, prompts come as they are stored: without their messages and
    columns, which rewards have seen already.
    """
    table = read_trajectories(path)
    stored = _stored(table)
    rows: list[_Row] = table.select(_ROW_COLUMNS).to_pylist()
    numbered = groupby(enumerate(rows), key=lambda numbered: numbered[1]["ordinal"])
    found = [list(members) for _, members in numbered]
    prompts = [
        stored.prompt(number, row) if prompt_at is None else prompt_at(row["ordinal"]) for (number, row), *_ in found
    ]
    return tuple(_group(prompt, members, stored) for prompt, members in zip(prompts, found, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stored:
    """The tokens of a file. `num_prompt_tokens`: [N], of each sequence of the block."""

    block: TokenBlock
    num_prompt_tokens: Sequence[int]

    def prompt(self, number: int, row: _Row) -> Prompt:
        """That of sequence `number`."""
        return Prompt(
            ordinal=row["ordinal"],
            epoch=row["epoch"],
            row=row["row"],
            tokens=self.block.tokens[self.block.span(number)][: self.num_prompt_tokens[number]],
            text=row["prompt"],
            answer=row["answer"],
        )

    def trajectory(self, prompt: Prompt, number: int, row: _Row) -> Trajectory:
        """Sequence `number`."""
        num_prompt_tokens = self.num_prompt_tokens[number]
        logprobs = self.block.rollout_logprobs[self.block.span(number)][num_prompt_tokens:]
        return Trajectory(
            prompt=prompt,
            sample_index=row["sample_index"],
            block=self.block,
            row=number,
            num_prompt_tokens=num_prompt_tokens,
            num_response_tokens=len(logprobs),
            text=row["response"],
            finish_reason=row["finish_reason"],
            min_version=row["min_version"],
            max_version=row["max_version"],
            mean_logprob=float(logprobs.astype(np.float64).mean()) if len(logprobs) else 0.0,
            worker=row["worker"],
        )


def _group(prompt: Prompt, members: Sequence[tuple[int, _Row]], stored: _Stored) -> Group:
    samples = tuple(
        Scored(trajectory=stored.trajectory(prompt, number, row), score=_score(row)) for number, row in members
    )
    greedy_reward = members[0][1]["greedy_reward"]
    greedy = None
    if greedy_reward is not None:
        # Its tokens were not kept: nothing but its reward is ever looked at again.
        greedy = Scored(trajectory=samples[0].trajectory, score=Score(value=greedy_reward))
    return Group(prompt=prompt, samples=samples, greedy=greedy)


def _score(row: _Row) -> Score:
    return Score(
        value=row["reward"], status=Status(row["status"]), detail=row["detail"], parts=dict(row["reward_parts"])
    )


def _stored(table: pa.Table) -> _Stored:
    prompts, num_prompt_tokens = _values(table, "prompt_tokens")
    _, num_response_tokens = _values(table, "response_tokens")
    lengths = num_prompt_tokens + num_response_tokens
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    starts = np.repeat(offsets[:-1] + num_prompt_tokens, lengths)
    is_response = np.arange(offsets[-1]) >= starts

    def of_responses(name: str, before: Any, dtype: Any) -> NDArray[Any]:
        """The column, with `before` on the prompts' tokens."""
        values = np.full(len(is_response), before, dtype=dtype)
        values[is_response] = _values(table, name)[0]
        return values

    tokens = of_responses("response_tokens", 0, np.int32)
    tokens[~is_response] = prompts
    block = TokenBlock(
        offsets=offsets,
        tokens=tokens,
        response_mask=of_responses("response_mask", False, np.bool_),
        rollout_logprobs=of_responses("rollout_logprobs", 0.0, np.float32),
        versions=of_responses("versions", -1, np.int32),
    )
    return _Stored(block=block, num_prompt_tokens=num_prompt_tokens.tolist())


def _values(table: pa.Table, name: str) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """A list column's values, one list after the other, and how many each list has."""
    column = table[name].combine_chunks()
    lengths = column.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    return column.flatten().to_numpy(zero_copy_only=False), lengths
