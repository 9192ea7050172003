"""Reward inputs and scores as JSON: between the pool and its processes, and over HTTP.

JSON rather than pickle, so that what runs a stranger's text cannot make its parent run code.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from rewards.contract import RewardInput, Score, Status

_FIELDS = tuple(RewardInput.__dataclass_fields__)


def dump_inputs(items: Sequence[RewardInput]) -> list[list[Any]]:
    """Each input as a row of its fields, in the order in which the record declares them."""
    return [[getattr(item, name) for name in _FIELDS] for item in items]


def load_inputs(rows: Sequence[Sequence[Any]]) -> list[RewardInput]:
    """The inputs that `dump_inputs` wrote."""
    return [RewardInput(**dict(zip(_FIELDS, row, strict=True))) for row in rows]


def dump_score(score: Score) -> list[Any]:
    """A score as a row."""
    return [score.value, score.status.value, score.detail, dict(score.parts)]


def load_score(row: Sequence[Any]) -> Score:
    """The score that `dump_score` wrote; ValueError when it is anything else."""
    value, status, detail, parts = row
    if value is not None and not isinstance(value, int | float):
        raise ValueError(f"a score's value must be a number or null, found {value!r}")
    return Score(value=None if value is None else float(value), status=Status(status), detail=str(detail), parts=parts)


def encode(message: Any) -> bytes:
    """`message` as JSON. Arrays become lists, bytes base64 text, whatever else JSON lacks its text."""
    return json.dumps(message, default=_plain, separators=(",", ":")).encode()


def decode(data: bytes) -> Any:
    """What `encode` wrote."""
    return json.loads(data)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if hasattr(value, "tolist"):  # numpy arrays and scalars
        return value.tolist()
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    return str(value)
