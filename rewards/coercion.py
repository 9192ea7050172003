"""What a reward function may return, made into scores."""

import math
from collections.abc import Sequence
from typing import Any

from rewards.contract import UNFIT, RewardError, Score, Status

_LARGEST = 1e300  # beyond it an int may not fit a float
_EXPECTED = "expected a number, None (abstain) or a Score"


def as_score(result: Any, function: str) -> Score:
    """One verdict. NaN and infinities become an ERROR score; RewardError for any other type."""
    if isinstance(result, Score):
        return _checked(result, function)
    if result is None:
        return Score(value=None, status=Status.ABSTAIN)
    value = _number(result, function)
    if not math.isfinite(value):
        return Score(value=None, status=Status.ERROR, detail=f"{UNFIT}{function} returned {value}")
    return Score(value=value)


def as_scores(results: Any, count: int, function: str) -> list[Score]:
    """One verdict for each of `count` samples of a batch; RewardError when there are more or fewer."""
    if hasattr(results, "tolist"):  # numpy arrays and tensors
        results = results.tolist()
    if isinstance(results, str | bytes) or not isinstance(results, Sequence):
        raise RewardError(f"{function} returned {_described(results)}; expected a list with one value a sample")
    if len(results) != count:
        raise RewardError(f"{function} returned {len(results)} values for {count} samples; expected one a sample")
    return [as_score(result, function) for result in results]


def _checked(score: Score, function: str) -> Score:
    if score.value is None:
        is_bare = score.status is Status.OK
        return Score(value=None, status=Status.ABSTAIN, detail=score.detail) if is_bare else score
    value = _number(score.value, function)
    parts = {str(name): _number(part, function) for name, part in score.parts.items()}
    broken = [name for name, number in {"value": value, **parts}.items() if not math.isfinite(number)]
    if broken:
        return Score(
            value=None,
            status=Status.ERROR,
            detail=f"{UNFIT}{function} returned a Score whose {broken[0]} is not finite",
        )
    return Score(value=value, status=Status(score.status), detail=str(score.detail), parts=parts)


def _number(value: Any, function: str) -> float:
    if isinstance(value, int | float):  # bool included: True is 1
        return math.inf if abs(value) > _LARGEST else float(value)
    if getattr(value, "ndim", None) == 0 or getattr(value, "size", None) == 1 or _is_single_tensor(value):
        item = value.item()
        if isinstance(item, int | float):
            return float(item)
    raise RewardError(f"{function} returned {_described(value)}; {_EXPECTED}")


def _is_single_tensor(value: Any) -> bool:
    return callable(getattr(value, "numel", None)) and value.numel() == 1


def _described(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:60] + '...'}"
