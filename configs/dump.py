"""A run as a resolved recipe: every key with its value, and its meaning as a comment."""

import json
import math
import re
from collections.abc import Iterator
from typing import Any, Final

from pydantic.fields import FieldInfo

from algorithms.table import describe, resolve
from configs.errors import ConfigError
from configs.redaction import redact
from configs.schema import AlgorithmConfig, Run, Section
from configs.yaml_source import parse_yaml

_WIDTH: Final = 110
_PLAIN = re.compile(r"[A-Za-z0-9_./$][A-Za-z0-9_./+@$-]*")  # needs no quotes unless it reads as another type


def dump_run(run: Run) -> str:
    """The run as YAML that loads to an equal run; secrets are redacted.

    Columns of the algorithm that the run leaves to the row stay null, with the row's value as a
    comment: written out, those that the row does not use would be refused on loading.
    """
    return "\n".join(_section(run, redact(run.model_dump()), "")) + "\n"


def _section(section: Section, values: dict[str, Any], indent: str) -> Iterator[str]:
    inherited = describe(resolve(section)) if isinstance(section, AlgorithmConfig) else {}
    for name, field in _plain_keys_first(section):
        value, shown = getattr(section, name), values[name]
        meaning = " ".join((field.description or "").split())  # on one line, as a comment must be
        comment = f"# {meaning}" if meaning else ""
        if value is None and name in inherited:
            comment = f"# the row's: {flow(inherited[name])}. {meaning}"
        if isinstance(value, Section):
            yield from ("", f"{indent}{comment}") if not indent else (f"{indent}{comment}",)
            yield f"{indent}{name}:"
            yield from _section(value, shown, indent + "  ")
        elif sections := _sections_of(value):
            yield from ("", f"{indent}{comment}", f"{indent}{name}:")
            for element, redacted in zip(sections, shown, strict=True):
                yield from _list_element(element, redacted, indent + "  ")
        else:
            yield from _line(f"{indent}{name}: {flow(shown)}", comment, indent)


def _list_element(section: Section, values: dict[str, Any], indent: str) -> Iterator[str]:
    lines = list(_section(section, values, indent + "  "))
    first = next(index for index, line in enumerate(lines) if not line.lstrip().startswith("#"))
    lines[first] = f"{indent}- {lines[first].lstrip()}"
    yield from lines


def _plain_keys_first(section: Section) -> list[tuple[str, FieldInfo]]:
    """The fields, those that hold sections last; a run's `stage` first, since it decides the others."""

    def rank(item: tuple[str, FieldInfo]) -> int:
        value = getattr(section, item[0])
        holds_sections = isinstance(value, Section) or _sections_of(value)
        return 0 if item[0] == "stage" else 2 if holds_sections else 1

    return sorted(type(section).model_fields.items(), key=rank)


def _sections_of(value: Any) -> tuple[Section, ...]:
    is_list = isinstance(value, tuple) and all(isinstance(element, Section) for element in value)
    return value if is_list else ()


def _line(text: str, comment: str, indent: str) -> Iterator[str]:
    """The comment behind the value where both fit on a line, else above it."""
    if len(text) + 2 + len(comment) <= _WIDTH:
        yield f"{text}  {comment}".rstrip()
    else:
        yield from (f"{indent}{comment}", text)


def flow(value: Any) -> str:
    """One value in YAML 1.2's flow style, on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{flow(key)}: {flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(flow, value)) + "]"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    return json.dumps(value)


def _text(value: str) -> str:
    if _reads_back(value):
        return value
    quoted = json.dumps(value, ensure_ascii=False)
    # JSON lets U+007F and its like stand as they are; YAML wants them escaped.
    return "".join(char if char.isprintable() else f"\\U{ord(char):08X}" for char in quoted)


def _reads_back(value: str) -> bool:
    """Whether YAML takes the bare word for this very text."""
    try:
        return _PLAIN.fullmatch(value) is not None and parse_yaml(value, "text")[0] == value
    except ConfigError:  # `...` ends a document, and an integer may have more digits than Python converts
        return False
