"""From plain data to a Run: the schema's verdict, said in the recipe's own terms."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

from pydantic import TypeAdapter, ValidationError

from configs.errors import ConfigError
from configs.keys import ALL_STAGES, STAGES, keys_of, stages_with, suggest
from configs.redaction import is_secret_key
from configs.schema import NamedStage, Run, Section, Stage
from configs.yaml_source import Document, KeyPath

logger = logging.getLogger(__name__)

# A smallest valid value for each required key; a test holds that none is missing here.
EXAMPLES: Final[Mapping[str, str]] = {
    "stage": "stage: rl",
    "name": "name: my-first-run",
    "model": "model: {path: Qwen/Qwen3-0.6B}",
    "data": "data: {train: prompts.parquet}",
    "data.reasoning_gym.task": "task: lcm",
    "mix.data": "data: {train: texts.parquet}",
    "mix.data.reasoning_gym.task": "task: lcm",
    "num_steps": "num_steps: 100",
    "rollout.autoscale.max_workers": "max_workers: 4",
    "rewards": "rewards: [{use: math}]",
    "rewards.N.use": "use: math",
    "guard.gold": "gold: [{use: math}]",
    "guard.gold.N.use": "use: math",
    "readable.N.use": "use: language",
    "run": "run: ${rl.run}",
    "to": "to: models/my-model",
}
_NAME_RULE = "1 to 64 of A-Z a-z 0-9 . _ -, the first a letter, a digit or _"
_RUN: TypeAdapter[Run] = TypeAdapter(Run)
_STAGE: TypeAdapter[Stage] = TypeAdapter(Stage)
_StageT = TypeVar("_StageT", bound=NamedStage)


def validate(document: Document, hidden: Mapping[KeyPath, str]) -> Run:
    """The run that a document describes. ConfigError lists every problem.

    `hidden` maps paths whose values must not be shown (they came from the environment) to what is
    shown instead.
    """
    return _validated(_RUN, document, _Reporter(document, hidden, tuple(STAGES)))


def validate_stage(document: Document, hidden: Mapping[KeyPath, str]) -> Stage:
    """The same for a stage of `wutong run`."""
    return _validated(_STAGE, document, _Reporter(document, hidden, tuple(ALL_STAGES)))


def _validated(adapter: TypeAdapter[_StageT], document: Document, reporter: "_Reporter") -> _StageT:
    try:
        stage = adapter.validate_python(document.data)
    except ValidationError as error:
        raise ConfigError(reporter.problems(error)) from None  # pydantic's text would show hidden values
    reporter.note_conversions(stage)
    return stage


class _Reporter:
    """Words for what the schema found in one document."""

    def __init__(self, document: Document, hidden: Mapping[KeyPath, str], stages: Sequence[str]) -> None:
        self.document = document
        self.hidden = hidden
        self.stages = stages
        stage = document.data.get("stage")
        self.stage = stage if isinstance(stage, str) and stage in stages else "rl"

    def problems(self, error: ValidationError) -> list[str]:
        """One line for each problem, in the order of the recipe's keys."""
        details = error.errors(include_url=False)
        # The first element is the stage, which pydantic puts before the path within it.
        paths = [tuple(detail["loc"][1:]) for detail in details]
        lines: list[str] = []
        for path, detail in zip(paths, details, strict=True):
            has_wrong_elements = any(other[: len(path)] == path != other for other in paths)
            if detail["type"] != "too_short" or not has_wrong_elements:  # wrong elements count as absent ones
                lines += self._describe(path, detail)
        return lines

    def note_conversions(self, run: NamedStage) -> None:
        """Log each value that was written as another type, such as "1e-6" in quotes. True is no number."""
        problems: list[str] = []
        for path, raw, value in _conversions(self.document.data, run, ()):
            if isinstance(raw, bool):
                problems.append(self._unfit(path))
            else:
                read_as = type(value).__name__ if path in self.hidden else repr(value)
                logger.info("%s: read %s as %s", _dotted(path), self._shown(path), read_as)
        if problems:
            raise ConfigError(problems)

    def _describe(self, path: KeyPath, detail: Any) -> list[str]:
        kind = detail["type"]
        if kind.startswith("union_tag"):
            return [self._bad_stage()]
        if kind == "extra_forbidden":
            return [self._unknown(leaf) for leaf in _leaves(path, detail["input"])]
        if kind == "missing" and isinstance(path[-1], int):  # a list of fixed length lacks an element
            return [self._unfit(path[:-1])]
        if kind == "missing":
            return [f"{_dotted(path)} is missing; for example `{EXAMPLES[_general(path)]}` {self._at(path[:-1])}"]
        if kind == "value_error":  # a rule over several keys, whose text names them
            prefix = f"{_dotted(path)}: " if path else ""
            return [f"{prefix}{detail['ctx']['error']} {self._at(path)}"]
        return [self._unfit(path)]

    def _bad_stage(self) -> str:
        choices = ", ".join(self.stages)
        if "stage" not in self.document.data:
            return f"stage is missing; for example `{EXAMPLES['stage']}`; choose one of {choices} {self._at(())}"
        return f"stage={self._shown(('stage',))}: choose one of {choices} {self._at(('stage',))}"

    def _unknown(self, path: KeyPath) -> str:
        dotted, general = _dotted(path), _general(path)
        if stages := stages_with(general, self.stages):
            return f"{dotted} is a key of stage {', '.join(stages)}, not of {self.stage} {self._at(path)}"
        guess = suggest(general, self.stage)
        hint = f"did you mean {guess}?" if guess else "`wutong config --schema` lists all keys"
        return f"{dotted} is not a key; {hint} {self._at(path)}"

    def _unfit(self, path: KeyPath) -> str:
        keys = keys_of(self.stage)
        general = _general(path)
        while general not in keys:  # an element of a list, or a value inside free-form arguments
            general = general.rpartition(".")[0]
        want = _NAME_RULE if general == "name" else keys[general].want
        if general == "rewards" and not self.document.data.get("rewards"):
            want = f"at least one, for example `{EXAMPLES['rewards']}`"
        return f"{_dotted(path)}={self._shown(path)}: want {want} {self._at(path)}"

    def _shown(self, path: KeyPath) -> str:
        if path in self.hidden:
            return self.hidden[path]
        if path and is_secret_key(str(path[-1])):
            return "<redacted>"
        value: Any = self.document.data
        for part in path:
            value = value[part]
        if value and isinstance(value, (dict, list)):  # what is inside may be secret
            return "{...}" if isinstance(value, dict) else "[...]"
        text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
        return text if len(text) <= 60 else text[:57] + "..."

    def _at(self, path: KeyPath) -> str:
        return f"({self.document.origin(path)})"


def _dotted(path: KeyPath) -> str:
    return ".".join(map(str, path))


def _general(path: KeyPath) -> str:
    """The path as the schema knows it: `N` in place of an index."""
    return ".".join("N" if isinstance(part, int) else part for part in path)


def _leaves(path: KeyPath, value: Any) -> Iterator[KeyPath]:
    """The keys inside an unknown section, since each may be known elsewhere; else the key itself."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves((*path, key), item)
    else:
        yield path


def _conversions(raw: Any, value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any, Any]]:
    """Leaves whose type the schema changed; an integer where a number is wanted is none."""
    if isinstance(value, Section) and isinstance(raw, dict):
        for key, item in raw.items():
            yield from _conversions(item, getattr(value, key), (*path, key))
    elif isinstance(value, tuple) and isinstance(raw, list):
        for index, (item, result) in enumerate(zip(raw, value, strict=True)):
            yield from _conversions(item, result, (*path, index))
    elif type(raw) is not type(value) and not (type(raw) is int and type(value) is float):
        yield path, raw, value
