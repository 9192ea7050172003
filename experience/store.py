"""The samples of a step as one Parquet file, for pandas, duckdb and replay."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from experience.errors import DataError
from experience.parquet import read_parquet, write_parquet
from experience.records import Group, Prompt, Scored, TokenBlock, Trajectory

# Raised when a column changes its meaning; kept in the file's schema metadata.
SCHEMA_VERSION = 1
_VERSION_KEY = b"wutong.trajectories"
_PARTS = pa.map_(pa.string(), pa.float64())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    """What one row is made of; token columns are cut out of the blocks for all rows at once."""

    step: int
    prompt: Prompt
    trajectory: Trajectory
    scored: Scored
    greedy: Scored | None
    advantage: float | None


class _Column(NamedTuple):
    name: str
    type: pa.DataType
    meaning: str
    value: Callable[[_Sample], Any]


def _greedy_reward(sample: _Sample) -> float | None:
    return None if sample.greedy is None else sample.greedy.reward


def _messages(sample: _Sample) -> str | None:
    return json.dumps([dict(message) for message in sample.prompt.messages]) if sample.prompt.messages else None


_COLUMNS = (
    _Column("id", pa.string(), "unique in the run: ordinal.sample_index", lambda s: s.trajectory.id),
    _Column("step", pa.int32(), "training step that learned from it", lambda s: s.step),
    _Column("ordinal", pa.int64(), "the prompt's place in the run", lambda s: s.prompt.ordinal),
    _Column("epoch", pa.int32(), "passes over the data before it", lambda s: s.prompt.epoch),
    _Column("row", pa.int64(), "the prompt's row in the data set", lambda s: s.prompt.row),
    _Column("sample_index", pa.int32(), "which sample of its group", lambda s: s.trajectory.sample_index),
    _Column("prompt", pa.string(), "as the policy read it", lambda s: s.prompt.text),
    _Column("messages", pa.string(), "the prompt's messages as JSON; null: it was a text", _messages),
    _Column("response", pa.string(), "the response, decoded", lambda s: s.trajectory.text),
    _Column("answer", pa.string(), "gold answer", lambda s: s.prompt.answer),
    _Column("reward", pa.float64(), "weighted sum; null: could not be scored", lambda s: s.scored.reward),
    _Column("reward_parts", _PARTS, "each reward by name", lambda s: list(s.scored.score.parts.items())),
    _Column("status", pa.string(), "how the verdict came about", lambda s: str(s.scored.score.status)),
    _Column("detail", pa.string(), "the verdict's reason", lambda s: s.scored.score.detail),
    _Column("advantage", pa.float64(), "null: not trained on", lambda s: s.advantage),
    _Column("greedy_reward", pa.float64(), "of the greedy response to the prompt, if any", _greedy_reward),
    _Column("finish_reason", pa.string(), "stop, length or abort", lambda s: s.trajectory.finish_reason),
    _Column("worker", pa.string(), "who sampled it", lambda s: s.trajectory.worker),
    _Column("min_version", pa.int32(), "oldest policy that sampled a token", lambda s: s.trajectory.min_version),
    _Column("max_version", pa.int32(), "newest policy that sampled a token", lambda s: s.trajectory.max_version),
)
_TOKEN_COLUMNS = {
    "prompt_tokens": (pa.int32(), "tokens of the prompt"),
    "response_tokens": (pa.int32(), "tokens after the prompt"),
    "response_mask": (pa.bool_(), "true on response tokens that the policy sampled"),
    "rollout_logprobs": (pa.float32(), "the engine's log-prob of each response token"),
    "versions": (pa.int32(), "policy version that sampled each response token; -1: none did"),
    "old_logprobs": (pa.float32(), "the trainer's log-prob of each response token before the update, if it ran"),
}
SCHEMA = pa.schema(
    [pa.field(column.name, column.type, metadata={"meaning": column.meaning}) for column in _COLUMNS]
    + [
        pa.field(name, pa.list_(kind), metadata={"meaning": meaning})
        for name, (kind, meaning) in _TOKEN_COLUMNS.items()
    ],
    metadata={_VERSION_KEY: str(SCHEMA_VERSION)},
)


def write_trajectories(
    path: Path,
    step: int,
    groups: Sequence[Group],
    advantages: Sequence[float | None],
    blocks: Sequence[TokenBlock],
    old_logprobs: Sequence[NDArray[np.float32]] | None = None,
) -> None:
    """Write the samples of all groups, in order, whole or not at all.

    `advantages`, `blocks` and `old_logprobs` have one entry a sample: its advantage (None: not trained
    on), the block that holds its tokens (the same block again and again), and a log-prob for each
    token after its prompt.
    """
    scored = [(sample, group.greedy) for group in groups for sample in group.samples]
    samples = [
        _Sample(
            step=step,
            prompt=one.trajectory.prompt,
            trajectory=one.trajectory,
            scored=one,
            greedy=greedy,
            advantage=advantage,
        )
        for (one, greedy), advantage in zip(scored, advantages, strict=True)
    ]
    columns = {c.name: pa.array([c.value(sample) for sample in samples], c.type) for c in _COLUMNS}
    columns |= _token_columns([sample.trajectory for sample in samples], blocks)
    if old_logprobs is None:
        columns["old_logprobs"] = pa.nulls(len(samples), pa.list_(pa.float32()))
    else:
        lengths = np.array([len(one) for one in old_logprobs], dtype=np.int64)
        assert np.array_equal(lengths, columns["versions"].value_lengths()), "one old log-prob a response token"
        columns["old_logprobs"] = _lists(np.concatenate([*old_logprobs, np.empty(0, dtype=np.float32)]), lengths)
    write_parquet(pa.table(columns, schema=SCHEMA), path)


def read_trajectories(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A file of `write_trajectories`, with the columns of SCHEMA or those named; DataError for any other file."""
    table = read_parquet(path, columns)
    version = (table.schema.metadata or {}).get(_VERSION_KEY)
    if version != str(SCHEMA_VERSION).encode():
        found = "no trajectories of ours" if version is None else f"trajectories of schema {version.decode()}"
        raise DataError(f"{path}: holds {found}; this version reads schema {SCHEMA_VERSION}")
    return table


def _token_columns(trajectories: Sequence[Trajectory], blocks: Sequence[TokenBlock]) -> dict[str, pa.Array]:
    """Token-level columns, cut out of the blocks without a loop over tokens."""
    used = list({id(block): block for block in blocks}.values())
    first = dict(zip(map(id, used), np.cumsum([0] + [len(block.tokens) for block in used]).tolist(), strict=False))
    starts, ends, prompts = (np.empty(len(blocks), dtype=np.int64) for _ in range(3))
    for place, (trajectory, block) in enumerate(zip(trajectories, blocks, strict=True)):
        span = block.span(trajectory.row)
        starts[place], ends[place] = first[id(block)] + span.start, first[id(block)] + span.stop
        prompts[place] = trajectory.num_prompt_tokens
    lengths = ends - starts - prompts
    prompt_places, response_places = _ranges(starts, prompts), _ranges(starts + prompts, lengths)

    def of_response(name: str) -> pa.Array:
        return _lists(_joined(used, name)[response_places], lengths)

    return {
        "prompt_tokens": _lists(_joined(used, "tokens")[prompt_places], prompts),
        "response_tokens": of_response("tokens"),
        "response_mask": of_response("response_mask"),
        "rollout_logprobs": of_response("rollout_logprobs"),
        "versions": of_response("versions"),
    }


def _joined(blocks: Sequence[TokenBlock], column: str) -> NDArray[Any]:
    return np.concatenate([getattr(block, column) for block in blocks]) if blocks else np.empty(0, dtype=np.int32)


def _ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """starts[0] .. starts[0] + lengths[0] - 1, then the same of the next: [sum of lengths]."""
    before = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) + np.repeat(starts - before, lengths)


def _lists(values: NDArray[Any], lengths: NDArray[np.int64]) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))
