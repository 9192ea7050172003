"""Conformance: to a regular expression of the recipe, or to a JSON schema."""

import functools
import json
import re
from collections.abc import Mapping
from typing import Any

from rewards.contract import RewardError, RewardInput, Score
from rewards.markers import final_text

_DEEPEST = 100
_FENCE = re.compile(r"```(?:json)?[ \t]*\n(.*?)\n?```", re.DOTALL)


def score_regex(item: RewardInput, pattern: str, is_whole: bool = False) -> float:
    """1 when the text after the thinking holds `pattern` (or, with `is_whole`, is it); else 0."""
    text = final_text(item.response, item.prompt)
    if text is None:
        return 0.0
    compiled = _compiled(pattern)
    return float(bool(compiled.fullmatch(text.strip()) if is_whole else compiled.search(text)))


def score_json_schema(item: RewardInput, schema: Mapping[str, Any]) -> Score:
    """1 when the text after the thinking (or its last fenced block) is JSON that conforms to `schema`; else 0."""
    import jsonschema
    from jsonschema.validators import validator_for
    from referencing import Registry

    text = final_text(item.response, item.prompt)
    blocks = _FENCE.findall(text or "")
    document = (blocks[-1] if blocks else text or "").strip()
    try:
        kind = validator_for(schema, default=jsonschema.Draft202012Validator)
        kind.check_schema(dict(schema))
    except jsonschema.SchemaError as error:
        raise RewardError(f"json_schema: the schema itself is wrong: {error.message}") from error
    if _nesting(document) > _DEEPEST:
        return Score(value=0.0, detail=f"nested deeper than {_DEEPEST}")
    try:
        value = json.loads(document, parse_constant=_no_constant)
    except ValueError as error:
        return Score(value=0.0, detail=f"no JSON: {error}"[:200])
    fault = next(kind(schema, registry=Registry()).iter_errors(value), None)  # an empty registry fetches nothing
    return Score(value=float(fault is None), detail="" if fault is None else fault.message[:200])


@functools.lru_cache(maxsize=64)
def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise RewardError(f"regex: pattern={pattern!r}: {error}") from error


def _nesting(text: str) -> int:
    depth = deepest = 0
    for bracket in re.findall(r"[\[{\]}]", text):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
