"""Nested settings as one flat table of dotted keys, to compare two of them."""

from collections.abc import Iterator
from typing import Any


def flat(values: Any) -> dict[str, Any]:
    """Every leaf under its dotted key, list elements by number."""
    return dict(_leaves(values, ""))


def covers(section: str, key: str) -> bool:
    """Whether `key` is this section, or in it."""
    return key == section or key.startswith(f"{section}.")


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        yield from _leaves(item, f"{path}.{name}" if path else str(name))
    if not items:
        yield path, value
