"""What a stage is made of, so that it is known whether it must be done again: settings, input files, other stages."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from algorithms.plugins import is_path
from cluster.resuming import SIZES, SURROUNDINGS
from configs.flat import covers
from configs.staged import StageSpec
from experience.dataset import find_files
from rewards.loading import find

# What may differ from when a stage was finished: its results would not.
_MEASURES = ("evaluation", "eval_every_steps", "eval_sequences", "eval_comparisons")
FREE = (
    *(key for key in SURROUNDINGS if key not in (*_MEASURES, "checkpoint")),
    *(key for key in SIZES if key != "num_steps"),
    *(f"checkpoint.{key}" for key in ("every_steps", "keep_last", "max_failed_saves")),
)
_DATA = re.compile(r"(?:mix\.)?data\.(?:train|eval)")
_TEMPLATE = re.compile(r"(?:mix\.)?data\.chat_template")
_MODEL = re.compile(r"(?:model|critic|against)\.path")
_RULE = re.compile(r"(?:rewards|readable|guard\.gold)\.\d+\.use")
_PLUGIN = re.compile(r"algorithm\.(?:name|advantage|loss)")
_MOST_TOLD = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Print:
    """`settings`: those that count, by dotted key. `files`: SHA-256 by path. `reads`: by stage, which doing of it."""

    settings: Mapping[str, Any]
    files: Mapping[str, str]
    reads: Mapping[str, str]

    @property
    def digest(self) -> str:
        """Equal for equal prints."""
        content = json.dumps([self.settings, self.files, self.reads], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def as_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return {"settings": dict(self.settings), "files": dict(self.files), "reads": dict(self.reads)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Print":
        """What `as_json` gave."""
        return cls(settings=content["settings"], files=content["files"], reads=content["reads"])

    def changes(self, earlier: "Print") -> list[str]:
        """What is other than in an earlier print, in words."""
        settings = [f"{key} was {was!r}, is {now!r}" for key, was, now in _differing(earlier.settings, self.settings)]
        files = [f"{name} has other content" for name, _, _ in _differing(earlier.files, self.files)]
        reads = [f"{name} was done anew" for name, _, _ in _differing(earlier.reads, self.reads)]
        return [*settings, *files, *reads]


def told(changes: list[str]) -> str:
    """The first few, and how many more there are."""
    more = f" and {len(changes) - _MOST_TOLD} more" if len(changes) > _MOST_TOLD else ""
    return "; ".join(changes[:_MOST_TOLD]) + more


def print_of(spec: StageSpec, reads: Mapping[str, str]) -> Print:
    """ValueError for a file that the stage names and that is not there. `reads`: see Print."""
    return Print(
        settings={key: value for key, value in spec.settings.items() if not any(covers(free, key) for free in FREE)},
        files={str(file): _digest(file) for file in dict.fromkeys(_files(spec.settings))},
        reads=reads,
    )


def _files(settings: Mapping[str, Any]) -> Iterator[Path]:
    """The files that are there before any stage; what a stage makes is a placeholder in the settings."""
    for key, value in settings.items():
        if isinstance(value, str) and "${" not in value:
            yield from _named(key, value)


def _named(key: str, value: str) -> Iterator[Path]:
    if _DATA.fullmatch(key) and not value.startswith("hub:"):
        yield from find_files(value)
    elif _TEMPLATE.fullmatch(key):
        yield _checked(key, Path(value).expanduser())
    elif _MODEL.fullmatch(key):
        yield from _folder(Path(value))
    elif _RULE.fullmatch(key):
        if value.startswith("model:"):
            yield from _folder(Path(value.removeprefix("model:")))
        elif find(value, Path.cwd()) is not None:
            yield Path(value.rpartition(":")[0])
    elif _PLUGIN.fullmatch(key) and is_path(value):
        yield _checked(key, Path(value.rpartition(":")[0]))


def _folder(folder: Path) -> list[Path]:
    """Its files; none where it is a name on the hub."""
    return sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []


def _checked(key: str, file: Path) -> Path:
    if not file.is_file():
        raise ValueError(f"{key}={file}: there is no such file (looked in {Path.cwd()})")
    return file


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _differing(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for key in dict.fromkeys([*earlier, *now]):
        if earlier.get(key) != now.get(key):
            yield key, earlier.get(key), now.get(key)
