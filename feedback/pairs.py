"""Pairs of responses to one prompt, which people compare: from a run's samples or from a file."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import xxhash

from experience.dataset import load_dataset
from experience.errors import DataError
from experience.store import read_trajectories
from metrics.whole_file import whole_file

Prompt: TypeAlias = str | list[dict[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two different responses to one prompt. `id` depends on these three texts alone."""

    id: str
    prompt: Prompt
    responses: tuple[str, str]

    @property
    def shown_prompt(self) -> str:
        """The prompt as one text."""
        if isinstance(self.prompt, str):
            return self.prompt
        return "\n\n".join(f"{message['role']}: {message['content']}" for message in self.prompt)


def make_pair(prompt: Prompt, responses: tuple[str, str]) -> Pair:
    """The pair of these texts."""
    content = json.dumps([prompt, *responses], sort_keys=True)
    return Pair(id=xxhash.xxh3_64_hexdigest(content.encode()), prompt=prompt, responses=responses)


def read_pairs(source: Path, limit: int) -> list[Pair]:
    """At most `limit` different pairs of a run's folder (its last stored step first) or of a Parquet or JSONL file.

    DataError when there is none to be had, or when a file's columns hold no responses.
    """
    found: dict[str, Pair] = {}
    for pair in _run_pairs(source) if (source / "trajectories").is_dir() else _file_pairs(source):
        found.setdefault(pair.id, pair)
        if len(found) == limit:
            break
    if not found:
        raise DataError(f"{source}: no prompt with two different responses; there is nothing to compare")
    return list(found.values())


def _run_pairs(folder: Path) -> Iterator[Pair]:
    """One pair of each group, of the newest step first."""
    for file in sorted((folder / "trajectories").glob("step_*.parquet"), reverse=True):
        table = read_trajectories(file)
        columns = ["ordinal", "prompt", "response", *({"messages"} & set(table.column_names))]
        groups: dict[int, tuple[Prompt, dict[str, None]]] = {}
        for row in table.select(columns).to_pylist():
            # Messages rather than the text that the policy's chat template made of them.
            prompt = json.loads(row["messages"]) if row.get("messages") else row["prompt"]
            _, responses = groups.setdefault(row["ordinal"], (prompt, {}))
            responses[row["response"]] = None
        for ordinal, (prompt, responses) in groups.items():
            yield from islice(_drawn(prompt, list(responses), seed=ordinal), 1)


def _drawn(prompt: Prompt, responses: Sequence[str], seed: int) -> Iterator[Pair]:
    """Pairs of the non-empty responses, each response once, in an order that the seed decides."""
    told = [response for response in responses if response.strip()]
    order = np.random.default_rng(seed).permutation(len(told))
    for first, second in zip(order[::2], order[1::2], strict=False):
        yield make_pair(prompt, (told[first], told[second]))


def _file_pairs(source: Path) -> Iterator[Pair]:
    dataset = load_dataset(str(source))
    columns = dataset.table.column_names
    if "prompt" not in columns or not ("responses" in columns or {"chosen", "rejected"} <= set(columns)):
        raise DataError(
            f"{source} has columns {', '.join(columns)}; want prompt and responses (a list of texts), "
            "or prompt, chosen and rejected"
        )
    for number, row in enumerate(dataset.table.to_pylist()):
        responses = row["responses"] if "responses" in columns else [row["chosen"], row["rejected"]]
        prompt = _prompt(row["prompt"], dataset.where(number))
        if not all(isinstance(response, str) for response in responses or ()):
            raise DataError(f"{dataset.where(number)}: a response is no text; want plain texts to compare")
        yield from _drawn(prompt, list(dict.fromkeys(responses or ())), seed=number)


def _prompt(value: Any, place: str) -> Prompt:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(message, Mapping) for message in value):
        return [{"role": str(message.get("role")), "content": str(message.get("content"))} for message in value]
    raise DataError(f"{place}: the prompt is neither a text nor a list of messages")


def write_pairs(pairs: Sequence[Pair], path: Path) -> None:
    """One JSON line a pair; the file appears whole or not at all."""
    with whole_file(path) as draft:
        draft.write_text("".join(json.dumps(asdict(pair)) + "\n" for pair in pairs), encoding="utf-8")


def load_pairs(path: Path) -> list[Pair]:
    """What `write_pairs` wrote."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [Pair(**{**one, "responses": tuple(one["responses"])}) for one in map(json.loads, lines)]
