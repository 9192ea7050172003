"""`${sft.model}` in a recipe of stages: what an earlier stage leaves behind, handed to a later one."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from configs.yaml_source import Document, KeyPath

Outputs = Mapping[str, Path]

_PLACEHOLDER = re.compile(r"\$\{([^{}:]*)\}")
_TRAINED = {"model": "export", "run": "."}

# What each kind of stage leaves behind: its name in placeholders, and where it is in the stage's folder.
OUTPUTS: Final[Mapping[str, Mapping[str, str]]] = {
    "pretrain": _TRAINED,
    "sft": _TRAINED,
    "reward_model": _TRAINED,
    "dpo": _TRAINED,
    "rl": _TRAINED,
    "preferences": {"train": "train.parquet", "eval": "eval.parquet"},
    "rejection_sampling": {"train": "train.parquet"},
    "evaluate": {"results": "results.json"},
    "export": {"model": ""},  # at the place that its `to` names
}
# What a key of this name takes, where that is one thing.
_WANTED = {
    "path": ("model",),
    "use": ("model",),
    "train": ("train", "eval"),
    "eval": ("train", "eval"),
    "run": ("run",),
}


def outputs_of(stage: Mapping[str, Any], folder: Path) -> Outputs:
    """Where a stage's outputs are to be; `stage`: its plain settings, `folder`: its own. Empty for unknown kinds."""
    kind = stage.get("stage")
    known = OUTPUTS.get(kind, {}) if isinstance(kind, str) else {}
    found = {name: folder / place for name, place in known.items()}
    if kind == "preferences" and not stage.get("num_eval_prompts"):
        del found["eval"]
    if kind == "export":
        found["model"] = Path(str(stage.get("to"))).absolute()
    return found


class Hands:
    """What the stages so far leave behind; `later`: the names of all that come after them."""

    def __init__(self, given: Mapping[str, Outputs], later: Sequence[str]) -> None:
        self._given, self._later = given, later

    def filled(self, document: Document) -> tuple[Document, tuple[str, ...], list[str]]:
        """The document with each placeholder filled, the stages that it reads from, and what is wrong in it."""
        reads: dict[str, None] = {}
        problems: list[str] = []

        def fill(value: Any, path: KeyPath) -> Any:
            if isinstance(value, dict):
                return {key: fill(item, (*path, key)) for key, item in value.items()}
            if isinstance(value, list):
                return [fill(item, (*path, index)) for index, item in enumerate(value)]
            return _PLACEHOLDER.sub(lambda match: put(match, path), value) if isinstance(value, str) else value

        def put(match: re.Match[str], path: KeyPath) -> str:
            stage, _, output = match[1].rpartition(".")
            wrong = next(self._problems(stage, output, path), None)
            if wrong is not None:
                problems.append(f"{'.'.join(map(str, path))}: {match[0]}: {wrong} ({document.origin(path)})")
                return match[0]
            reads[stage] = None
            return str(self._given[stage][output])

        data = fill(document.data, ())
        return Document(name=document.name, data=data, origins=document.origins), tuple(reads), problems

    def _problems(self, stage: str, output: str, path: KeyPath) -> Iterator[str]:
        if not stage:
            yield "want ${STAGE.OUTPUT}, such as ${sft.model}, or ${env:NAME}"
        elif stage in self._later:
            yield f"{stage} comes after this stage, or is this one; only what an earlier stage leaves can be handed on"
        elif stage not in self._given:
            near = difflib.get_close_matches(stage, self._given, n=1)
            hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(self._given) or 'none'}"
            yield f"no earlier stage is called {stage!r}; {hint}"
        elif output not in self._given[stage]:
            yield f"{stage} leaves no {output!r}; it leaves {', '.join(self._given[stage]) or 'nothing'}"
        elif output not in (wanted := _WANTED.get(str(path[-1]), (output,))):
            yield f"that is no {' or '.join(wanted)}, which {'.'.join(map(str, path))} wants"
