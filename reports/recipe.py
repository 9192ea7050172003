"""What a recipe sets: its keys in one flat table, and those that differ from the defaults or between runs."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from algorithms.table import ALGORITHMS, describe
from configs.dump import flow
from configs.keys import STAGES, keys_of

# The run's place and name tell runs apart and say nothing about what was trained.
_PLACE = ("name", "output_dir")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One key of a recipe: its value in each run, as YAML, and its default; None where a run doesn't have it."""

    key: str
    values: tuple[str | None, ...]
    default: str | None
    meaning: str


def flat(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted key -> value, for every value that is no section; elements of lists of sections count from 0."""
    return dict(_walk(recipe, ""))


def changed_settings(recipes: Sequence[Mapping[str, Any]]) -> list[Setting]:
    """The keys that a run of them sets otherwise than the default, required keys among them."""
    return [setting for setting in _settings(recipes) if any(v not in (None, setting.default) for v in setting.values)]


def differing_settings(recipes: Sequence[Mapping[str, Any]]) -> list[Setting]:
    """The keys in which the runs differ, but for their name and place.

    Columns of the algorithm that a recipe leaves out have the value of its row.
    """
    settings = [setting for setting in _settings([*map(_with_row, recipes)]) if setting.key not in _PLACE]
    return [setting for setting in settings if len(set(setting.values)) > 1]


def has_token_advantages(recipe: Mapping[str, Any]) -> bool:
    """Whether the ranks make advantages token by token, of a reward that is stored in their place.

    False for a row in a file, which is code to be run.
    """
    filled = _with_row(recipe)
    if filled is recipe:
        return False
    columns = dict(filled["algorithm"])
    row = ALGORITHMS[columns["name"]]
    return replace(row, **{key: columns[key] for key in describe(row).keys() & columns.keys()}).has_token_rewards


def _settings(recipes: Sequence[Mapping[str, Any]]) -> list[Setting]:
    tables = [flat(recipe) for recipe in recipes]
    stages = [str(recipe.get("stage")) for recipe in recipes]
    known = {path: key for stage in stages if stage in STAGES for path, key in keys_of(stage).items()}
    settings = []
    for key in dict.fromkeys(key for table in tables for key in table):
        row = known.get(re.sub(r"\.\d+(?=\.|$)", ".N", key))
        settings.append(
            Setting(
                key=key,
                values=tuple(_shown(table[key]) if key in table else None for table in tables),
                default=None if row is None or row.is_required else _shown(row.default),
                meaning=row.description if row else "",
            )
        )
    return settings


def _shown(value: Any) -> str:
    """The value as YAML; 600.0 like the 600 that a recipe, or a default, may say for it."""
    return flow(int(value) if isinstance(value, float) and value.is_integer() else value)


def _with_row(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """The recipe with the columns of its algorithm's row; as it is for a row in a file, which is code to be run."""
    algorithm = recipe.get("algorithm")
    if not isinstance(algorithm, Mapping) or algorithm.get("name") not in ALGORITHMS:
        return recipe
    row = describe(ALGORITHMS[algorithm["name"]])
    filled = {key: row.get(key) if value is None else value for key, value in algorithm.items()}
    return {**recipe, "algorithm": filled}


def _walk(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _walk(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        for number, item in enumerate(value):
            yield from _walk(item, f"{path}.{number}")
    else:
        yield path, value
