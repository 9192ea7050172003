"""Overrides of the command line: `rollout.group_size=4` set on top of a recipe."""

from collections.abc import Sequence
from typing import Any

from configs.errors import ConfigError
from configs.yaml_source import Document, KeyPath, parse_yaml


def apply_overrides(document: Document, overrides: Sequence[str]) -> Document:
    """The document with each `dotted.key=value` set in order; values are read as YAML.

    ConfigError lists every override that names no place. Whether the key exists in the schema is
    left to validation, which knows what it could have meant.
    """
    data, origins = _copy(document.data), dict(document.origins)
    problems: list[str] = []
    for override in overrides:
        try:
            path = _set(data, override)
        except ConfigError as error:
            problems += error.problems
        else:
            origins = {known: at for known, at in origins.items() if known[: len(path)] != path}
            origins[path] = "command line"
            for depth in range(1, len(path)):  # sections that the override made
                origins.setdefault(path[:depth], "command line")
    if problems:
        raise ConfigError(problems)
    return Document(name=document.name, data=data, origins=origins)


def _copy(value: Any) -> Any:
    # Not copy.deepcopy, which would keep a list that two aliases share as one list.
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def _set(data: dict[str, Any], override: str) -> KeyPath:
    dotted, equals, text = override.partition("=")
    parts = dotted.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError([f"override {override!r}: write it as key=value, such as rollout.group_size=4"])
    value, _ = parse_yaml(text, f"override {dotted}")
    container: Any = data
    path: KeyPath = ()
    for part in parts[:-1]:
        container, path = _step_into(container, part, path)
    last = _place(container, parts[-1], path)
    container[last] = value
    return (*path, last)


def _step_into(container: Any, part: str, path: KeyPath) -> tuple[Any, KeyPath]:
    """The value under `part`, made an empty section if there is none yet, and its path."""
    place = _place(container, part, path)
    if isinstance(container, dict) and container.get(part) is None:
        container[part] = {}
    return container[place], (*path, place)


def _place(container: Any, part: str, path: KeyPath) -> str | int:
    """The key or list index that `part` names in `container`, which stands at `path`."""
    if isinstance(container, dict):
        return part
    here = ".".join(map(str, path))
    if not isinstance(container, list):
        raise ConfigError([f"override {here}.{part}: {here} is a single value and has no keys"])
    if not part.isdecimal() or int(part) >= len(container):
        valid = f"an index from 0 to {len(container) - 1}" if container else "nothing: the list is empty"
        raise ConfigError([f"override {here}.{part}: {here} is a list; valid: {valid}"])
    return int(part)
