"""A YAML file as plain data, with the line on which every key stands.

Scalars follow YAML 1.2's core schema. PyYAML's own YAML 1.1 reads `1e-6` as text, `no` as false,
`010` as 8 and `1:30` as 90; in a recipe those are a number, a word, ten and a text.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml

from configs.errors import ConfigError

MAX_BYTES: Final = 256 * 1024
MAX_DEPTH: Final = 20
MAX_NODES: Final = 20_000  # with aliases expanded: nine levels of nine aliases would make 9**9

KeyPath: TypeAlias = tuple[str | int, ...]

_TAG = "tag:yaml.org,2002:"
_SPECIAL_FLOAT = {".inf": "inf", "+.inf": "inf", "-.inf": "-inf", ".nan": "nan"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """Plain data, and where each key was set: `run.yaml:14`, or an override of the command line."""

    name: str
    data: dict[str, Any]
    origins: dict[KeyPath, str]

    def origin(self, path: KeyPath) -> str:
        """Where `path` was set, or else the nearest section around it."""
        while path and path not in self.origins:
            path = path[:-1]
        return self.origins.get(path, self.name)


class _Loader(yaml.SafeLoader):
    """PyYAML's parser with the scalars of YAML 1.2 and a bound on nesting."""

    yaml_implicit_resolvers: dict = {}  # noqa: RUF012 - shadows PyYAML's class attribute of the same kind
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """One node. Bounded here because the parser itself recurses."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(
                problem=f"more than {MAX_DEPTH} levels deep", problem_mark=self.peek_event().start_mark
            )
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


for _kind, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan",
        list("-+0123456789."),
    ),
):
    _Loader.add_implicit_resolver(_TAG + _kind, re.compile(f"^(?:{_pattern})$"), _first)


def _integer(text: str) -> int:
    return int(text, 0) if text[:2] in ("0x", "0o") else int(text)


def _number(text: str) -> float:
    return float(_SPECIAL_FLOAT.get(text, text))


_SCALARS: dict[str, Callable[[str], Any]] = {
    _TAG + "null": lambda _: None,
    _TAG + "bool": lambda text: text.lower() == "true",
    _TAG + "int": _integer,
    _TAG + "float": _number,
    _TAG + "str": str,
}


class _Builder:
    """Turns a tree of YAML nodes into plain data, and notes the line of each key."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.origins: dict[KeyPath, str] = {}
        self.num_nodes = 0

    def build(self, node: yaml.Node, path: KeyPath = ()) -> Any:
        """The value of `node`, which stands at `path`."""
        self.num_nodes += 1
        if self.num_nodes > MAX_NODES or len(path) > MAX_DEPTH:
            raise self.error(node, "too large: aliases (*name) repeat or contain themselves too often")
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS:
            return self._scalar(node)
        raise self.error(node, f"the tag {node.tag.replace(_TAG, '!!')} is refused; a recipe holds plain values")

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self.build(key_node, path)
            if not isinstance(key, str):
                raise self.error(key_node, f"the key {key!r} is not a text; quote it")
            if key == "<<":
                raise self.error(key_node, "merge keys (<<) are not read; write the keys out")
            if key in result:
                dotted = ".".join(map(str, (*path, key)))
                raise self.error(key_node, f"{dotted} is set twice; first at {self.origins[*path, key]}")
            self.origins[*path, key] = f"{self.name}:{key_node.start_mark.line + 1}"
            result[key] = self.build(value_node, (*path, key))
        return result

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        try:
            return _SCALARS[node.tag](node.value)
        except ValueError as error:  # an explicit `!!int x`, or more digits than Python converts
            raise self.error(node, f"{node.value[:40]!r} is no {node.tag.removeprefix(_TAG)}") from error

    def error(self, node: yaml.Node, text: str) -> ConfigError:
        """A problem at the line and column where `node` starts."""
        return ConfigError([f"{self.name}:{node.start_mark.line + 1}:{node.start_mark.column + 1}: {text}"])


def parse_yaml(text: str, name: str) -> tuple[Any, dict[KeyPath, str]]:
    """The value of a YAML text and the origin of each key in it. `name` stands for the text in errors."""
    builder = _Builder(name)
    try:
        node = _Loader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        raise ConfigError([_syntax_problem(error, name)]) from error
    except yaml.reader.ReaderError as error:
        found = f"the character U+{error.character:04X} at position {error.position} is not allowed in YAML"
        raise ConfigError([f"{name}: {found}"]) from error
    return (None if node is None else builder.build(node)), builder.origins


def read_recipe(path: Path) -> Document:
    """The recipe in a file. ConfigError when it can't be read or holds no mapping."""
    text = _read_text(path)
    data, origins = parse_yaml(text, path.name)
    if data is None:
        raise ConfigError([f"{path}: empty; a recipe needs at least stage, name, model, data and num_steps"])
    if not isinstance(data, dict):
        raise ConfigError([f"{path}: holds {type(data).__name__}, want `key: value` lines"])
    return Document(name=path.name, data=data, origins=origins)


def _read_text(path: Path) -> str:
    if path.is_dir():
        raise ConfigError([f"{path}: a folder; name the recipe file in it"])
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror} (current folder: {Path.cwd()})"]) from error
    if len(raw) > MAX_BYTES:
        raise ConfigError([f"{path}: larger than {MAX_BYTES // 1024} KiB; this is not a recipe"])
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start}"]) from error


def _syntax_problem(error: yaml.MarkedYAMLError, name: str) -> str:
    mark = error.problem_mark or error.context_mark
    where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
    problem = error.problem or "not valid YAML"
    if r"'\t'" in problem:
        problem = "a tab; indent with spaces"
    return f"{where}: {problem}"
