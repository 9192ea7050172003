"""Every key of the schema as one flat table: for suggestions, error messages and the reference."""

import difflib
import types
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo

from configs.schema import (
    BaseRun,
    DpoRun,
    EvaluateStage,
    ExportStage,
    NamedStage,
    PreferencesStage,
    PretrainRun,
    RejectionSamplingStage,
    RewardModelRun,
    RlRun,
    Section,
    SftRun,
)

STAGES: Mapping[str, type[BaseRun]] = {
    "pretrain": PretrainRun,
    "sft": SftRun,
    "reward_model": RewardModelRun,
    "dpo": DpoRun,
    "rl": RlRun,
}
# Those of `wutong run`.
ALL_STAGES: Mapping[str, type[NamedStage]] = {
    **STAGES,
    "preferences": PreferencesStage,
    "rejection_sampling": RejectionSamplingStage,
    "evaluate": EvaluateStage,
    "export": ExportStage,
}

_TYPE_NAMES = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}
_BOUNDS = (
    (annotated_types.Gt, "gt", ">"),
    (annotated_types.Ge, "ge", ">="),
    (annotated_types.Lt, "lt", "<"),
    (annotated_types.Le, "le", "<="),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key. `path` is dotted, with `N` for a list index; `want` says what a value must be.

    `default` is None for sections too.
    """

    path: str
    want: str
    default: Any
    is_required: bool
    is_section: bool
    description: str


@cache
def keys_of(stage: str) -> Mapping[str, Key]:
    """All keys that a recipe of this stage may hold, in the schema's order."""
    return {key.path: key for key in _walk(ALL_STAGES[stage], "")}


def all_keys(stages: Collection[str] = STAGES) -> Mapping[str, Key]:
    """The keys of these stages, each once; `stage`, which chooses between them, comes first."""
    merged = {path: key for stage in stages for path, key in keys_of(stage).items()}
    stage = replace(merged.pop("stage"), want=f"one of {', '.join(stages)}", description="Which kind of training.")
    return {"stage": stage, **merged}


def suggest(path: str, stage: str) -> str | None:
    """The key of `stage` that was most likely meant by `path`, or None when none is near.

    The last part of the path counts most: people remember a knob's name better than its section.
    """
    best = max(keys_of(stage), key=lambda key: _likeness(path, key))
    return best if _likeness(path, best) >= 0.7 else None


def stages_with(path: str, stages: Iterable[str] = STAGES) -> tuple[str, ...]:
    """Those of the stages that know this key."""
    return tuple(stage for stage in stages if path in keys_of(stage))


def _likeness(path: str, key: str) -> float:
    def ratio(left: str, right: str) -> float:
        return difflib.SequenceMatcher(None, left, right, autojunk=False).ratio()

    return 0.35 * ratio(path, key) + 0.65 * ratio(path.rpartition(".")[2], key.rpartition(".")[2])


def _walk(section: type[Section], prefix: str) -> Iterator[Key]:
    for name, field in section.model_fields.items():
        path = prefix + name
        child, is_list = _child_section(field.annotation)
        yield Key(
            path=path,
            want=_want(field),
            default=None if field.is_required() or (child and not is_list) else _default(field),
            is_required=field.is_required(),
            is_section=child is not None,
            description=field.description or "",
        )
        if child:
            yield from _walk(child, f"{path}.N." if is_list else f"{path}.")


def _default(field: FieldInfo) -> Any:
    return field.get_default(call_default_factory=True, validated_data={})


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    is_union = get_origin(annotation) in (Union, types.UnionType)
    return get_args(annotation) if is_union else (annotation,)


def _child_section(annotation: Any) -> tuple[type[Section] | None, bool]:
    """The section behind an annotation, if any, and whether the key holds a list of them."""
    for kind in _alternatives(annotation):
        is_list = get_origin(kind) is tuple
        inner = get_args(kind)[0] if is_list else kind
        if isinstance(inner, type) and issubclass(inner, Section):
            return inner, is_list
    return None, False


def _want(field: FieldInfo) -> str:
    """`a number > 0 and <= 1`, `one of a, b`, `an integer >= 1, or null` ..."""
    kinds = _alternatives(field.annotation)
    named = " or ".join(_want_one(kind) for kind in kinds if kind is not types.NoneType)
    bounds = _bounds(field)
    return named + (f" {bounds}" if bounds else "") + (", or null" if types.NoneType in kinds else "")


def _want_one(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        first, *others = get_args(kind)
        length = "" if others == [...] else f"{len(others) + 1} of "
        return f"a list of {length}({_want_one(first)})"
    if isinstance(kind, type) and issubclass(kind, Section):
        return f"a section with keys {', '.join(kind.model_fields)}"
    return _TYPE_NAMES.get(kind, "a section of your own keys")


def _bounds(field: FieldInfo) -> str:
    texts = [
        f"{sign} {getattr(item, attribute)}"
        for kind, attribute, sign in _BOUNDS
        for item in field.metadata
        if isinstance(item, kind)
    ]
    return " and ".join(texts)
