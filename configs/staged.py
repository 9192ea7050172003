"""Loading a recipe of stages: each stage's own file, what stands beside it, overrides, and what it is handed."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from configs.errors import ConfigError
from configs.flat import flat
from configs.handed import Hands, Outputs, outputs_of
from configs.load import check_algorithm
from configs.overrides import apply_overrides
from configs.placeholders import fill_placeholders
from configs.redaction import redact
from configs.schema import ExportStage, RlRun, Stage
from configs.validation import validate_stage
from configs.yaml_source import Document, KeyPath, read_recipe

_HEAD: Final = ("name", "output_dir", "stages")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
_NAME_RULE = "1 to 64 of A-Z a-z 0-9 _ -"
_TAKEN = (*_HEAD, "lock")  # keys of the head, which overrides name, and what stands in the folder


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSpec:
    """One stage. `config`: with what it is handed filled in, wherever that will be.

    `settings`: the same as dotted keys, with the placeholders, and without secrets. `reads`: the stages that hand it
    something.
    """

    name: str
    config: Stage
    settings: Mapping[str, Any]
    reads: tuple[str, ...]
    outputs: Outputs

    @property
    def folder(self) -> Path:
        """Where it works."""
        return Path(self.config.output_dir) / self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedRun:
    """All stages, in order. `folder`: absolute; each has a folder of its name in it."""

    folder: Path
    stages: tuple[StageSpec, ...]


def is_staged(path: str | Path) -> bool:
    """Whether a recipe is a list of stages, for `wutong run`, and not a single one, for `wutong train`."""
    data = read_recipe(Path(path)).data
    return "stages" in data and "stage" not in data


def load_staged(path: str | Path, overrides: Sequence[str] = ()) -> StagedRun:
    """The stages that a recipe describes; overrides are `STAGE.dotted.key=value`, `name=` and `output_dir=`.

    The file that a stage's `recipe` names is looked for beside the recipe; all other paths start at the current
    folder. ConfigError holds one line for each problem of any stage.
    """
    document = read_recipe(Path(path))
    own, rest = _split(overrides, _names(document))
    document = apply_overrides(document, rest)
    if problems := [*_head_problems(document, path)]:
        raise ConfigError(problems)
    folder = Path(document.data.get("output_dir", "runs")).absolute() / document.data["name"]
    return StagedRun(folder=folder, stages=_stages(document, Path(path).parent, own, folder))


def _stages(
    document: Document, beside: Path, overrides: Mapping[str, Sequence[str]], folder: Path
) -> tuple[StageSpec, ...]:
    names = [entry["name"] for entry in document.data["stages"]]
    given: dict[str, Outputs] = {}
    found: list[StageSpec] = []
    problems: list[str] = []
    for place, name in enumerate(names):
        outputs: Outputs = {}
        try:
            plain = apply_overrides(_entry(document, place, beside), overrides.get(name, ()))
            plain.data.update(name=name, output_dir=str(folder))
            outputs = outputs_of(plain.data, folder / name)
            found.append(_stage(plain, Hands(given, names[place:]), outputs))
        except ConfigError as error:
            problems += [f"stage {name}: {problem}" for problem in error.problems]
        given[name] = outputs
    if problems:
        raise ConfigError(problems)
    return tuple(found)


def _stage(document: Document, hands: Hands, outputs: Outputs) -> StageSpec:
    plain, hidden = fill_placeholders(document)
    filled, reads, problems = hands.filled(plain)
    try:
        config = validate_stage(filled, hidden)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from None
    if problems:
        raise ConfigError(problems)
    if isinstance(config, ExportStage) and not reads:
        raise ConfigError([f"run={config.run}: want ${{STAGE.run}} of a stage that trains ({filled.origin(('run',))})"])
    if isinstance(config, RlRun):
        check_algorithm(config, filled)
    settings = validate_stage(plain, hidden).model_dump(mode="json")
    return StageSpec(name=config.name, config=config, settings=flat(redact(settings)), reads=reads, outputs=outputs)


def _entry(document: Document, place: int, beside: Path) -> Document:
    """A stage's settings: those of the file that it names, with those beside that name on top."""
    at: KeyPath = ("stages", place)
    origins = {path[2:]: origin for path, origin in document.origins.items() if path[:2] == at}
    own = {key: value for key, value in document.data["stages"][place].items() if key != "recipe"}
    top = Document(name=document.origin((*at, "name")), data=own, origins=origins)
    file = document.data["stages"][place].get("recipe")
    if file is None:
        return top
    if not isinstance(file, str):
        raise ConfigError([f"recipe={file!r}: want the path of a recipe ({top.origin(('recipe',))})"])
    base = read_recipe(beside / file)
    replaced = list(_leaves(top.data, base.data, ()))
    kept = {path: at for path, at in base.origins.items() if not any(path[: len(one)] == one for one in replaced)}
    return Document(name=base.name, data=_merged(base.data, top.data), origins={**kept, **origins})


def _merged(base: Any, top: Any) -> Any:
    if not isinstance(base, dict) or not isinstance(top, dict):
        return top
    return {**base, **{key: _merged(base.get(key), value) for key, value in top.items()}}


def _leaves(top: Any, base: Any, path: KeyPath) -> Iterator[KeyPath]:
    """Where `top` takes the place of all that `base` has."""
    if not isinstance(base, dict) or not isinstance(top, dict):
        yield path
        return
    for key, value in top.items():
        yield from _leaves(value, base.get(key), (*path, key))


def _split(overrides: Sequence[str], names: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The overrides of each stage, without its name, and those of the head."""
    own: dict[str, list[str]] = {}
    head: list[str] = []
    problems: list[str] = []
    for override in overrides:
        first, dot, rest = override.partition("=")[0].partition(".")
        if dot and first in names:
            own.setdefault(first, []).append(override.partition(".")[2])
        elif not rest and first in ("name", "output_dir"):
            head.append(override)
        else:
            problems.append(
                f"override {override!r}: write it as STAGE.key=value, where STAGE is one of {', '.join(names)}, or as "
                "name=value or output_dir=value"
            )
    if problems:
        raise ConfigError(problems)
    return own, head


def _names(document: Document) -> list[str]:
    entries = document.data.get("stages")
    names = [entry.get("name") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return [name for name in names if isinstance(name, str)]


def _head_problems(document: Document, path: str | Path) -> Iterator[str]:
    data = document.data
    if "stages" not in data and "stage" in data:
        yield f"{path}: a recipe of a single stage; `wutong train {path}` runs it"
        return
    for key in data:
        if key not in _HEAD:
            yield f"{key} is not a key; a recipe of stages has {', '.join(_HEAD)} ({document.origin((key,))})"
    if not isinstance(data.get("name"), str) or not _NAME.fullmatch(data["name"]):
        yield f"name={data.get('name')!r}: want {_NAME_RULE} ({document.origin(('name',))})"
    if not isinstance(data.get("output_dir", ""), str):
        yield f"output_dir={data['output_dir']!r}: want a folder ({document.origin(('output_dir',))})"
    stages = data.get("stages")
    if not isinstance(stages, list) or not stages:
        yield f"stages: want a list of stages, for example `- {{name: sft, recipe: sft.yaml}}` ({document.name})"
        return
    yield from _name_problems(document)


def _name_problems(document: Document) -> Iterator[str]:
    seen: set[str] = set()
    for place, entry in enumerate(document.data["stages"]):
        origin = document.origin(("stages", place, "name"))
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name in _TAKEN:
            yield f"stages.{place}.name={name!r}: want {_NAME_RULE}, and none of {', '.join(_TAKEN)} ({origin})"
        elif name in seen:
            yield f"stages.{place}.name={name}: an earlier stage has this name ({origin})"
        else:
            seen.add(name)
