"""The stored samples of a run: rewards of each step, and the samples worth reading."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from experience.store import read_trajectories
from metrics.intervals import clustered_mean
from reports.run_data import RunData

_LIGHT = ("id", "ordinal", "row", "reward", "advantage", "status", "detail", "finish_reason")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One stored sample. Token columns cover the response; `old_logprobs` is None where they were not kept."""

    id: str
    step: int
    row: int
    prompt: str
    response: str
    answer: str | None
    reward: float | None
    parts: Mapping[str, float]
    status: str
    detail: str
    advantage: float | None
    finish_reason: str
    worker: str
    min_version: int
    max_version: int
    tokens: tuple[int, ...]
    mask: tuple[bool, ...]
    rollout_logprobs: tuple[float, ...]
    versions: tuple[int, ...]
    old_logprobs: tuple[float, ...] | None

    @property
    def staleness(self) -> int:
        """Versions between the policy that sampled its first token and the one that learned from it."""
        return self.step - 1 - self.min_version


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One prompt at two steps: mean reward of its group at each, and the sample nearest to that mean."""

    row: int
    early: Sample
    late: Sample
    early_mean: float
    late_mean: float


def reward_intervals(run: RunData) -> dict[int, tuple[float, float]]:
    """Step -> 95 % interval of its mean reward, with a prompt's samples as one cluster; stored steps alone."""
    found = {step: _summary(path).interval for step, path in run.stored_steps().items()}
    return {step: interval for step, interval in found.items() if np.isfinite(interval[0])}


def failure_reasons(run: RunData, limit: int = 3) -> dict[str, list[tuple[str, int]]]:
    """Status -> its most frequent reasons with their counts, over all stored steps; `ok` is left out."""
    counts: Counter[tuple[str, str]] = Counter()
    for path in run.stored_steps().values():
        counts.update(_summary(path).reasons)
    found: dict[str, list[tuple[str, int]]] = {}
    for (status, reason), count in sorted(counts.items(), key=lambda item: (item[0][0], -item[1], item[0][1])):
        found.setdefault(status, []).append((reason, count))
    return {status: reasons[:limit] for status, reasons in found.items()}


def left_out(run: RunData) -> dict[str, int]:
    """Why samples of the stored steps were not trained on, and how many."""
    counts: Counter[str] = Counter()
    for path in run.stored_steps().values():
        counts.update(_summary(path).left_out)
    return dict(counts.most_common())


def best(path: Path, num: int) -> list[Sample]:
    """The samples with the highest rewards of a stored step, each of another prompt."""
    return _ranked(path, num, lambda row: (-row["reward"], -(row["advantage"] or 0.0)))


def worst(path: Path, num: int) -> list[Sample]:
    """The samples with the lowest rewards of a stored step, each of another prompt."""
    return _ranked(path, num, lambda row: (row["reward"], row["advantage"] or 0.0))


def with_id(run: RunData, sample_id: str, step: int | None = None) -> Sample:
    """The sample of this id, of `step` or wherever it is stored. ValueError when no step has it."""
    for path in [run.stored_steps()[step]] if step is not None else run.stored_steps().values():
        if any(row["id"] == sample_id for row in _light_rows(path)):
            return _read(path, [sample_id])[0]
    where = "any stored step" if step is None else f"step {step}"
    raise ValueError(f"--id {sample_id}: not in {where} of {run.folder}; ids are ORDINAL.SAMPLE, such as 512.3")


def most_changed(run: RunData, num: int) -> list[Change]:
    """The prompts whose groups' mean rewards differ most between the first and the last stored step that has them."""
    first: dict[int, tuple[Path, float]] = {}
    last: dict[int, tuple[Path, float]] = {}
    for path in run.stored_steps().values():
        for row, mean in _summary(path).means.items():
            first.setdefault(row, (path, mean))
            last[row] = (path, mean)
    sizes = {row: abs(last[row][1] - mean) for row, (_, mean) in first.items() if last[row][1] != mean}
    return [_change(row, first[row], last[row]) for row in sorted(sizes, key=lambda row: (-sizes[row], row))[:num]]


def _change(row: int, first: tuple[Path, float], last: tuple[Path, float]) -> Change:
    (early, early_mean), (late, late_mean) = first, last
    return Change(
        row=row,
        early=_typical(early, row, early_mean),
        late=_typical(late, row, late_mean),
        early_mean=early_mean,
        late_mean=late_mean,
    )


def _typical(path: Path, row: int, mean: float) -> Sample:
    """The sample of a prompt whose reward is nearest to the mean."""
    members = [member for member in _scored_rows(path) if member["row"] == row]
    return _read(path, [min(members, key=lambda member: (abs(member["reward"] - mean), member["id"]))["id"]])[0]


def _ranked(path: Path, num: int, key: Callable[[Mapping[str, Any]], tuple[float, float]]) -> list[Sample]:
    firsts: dict[int, str] = {}
    for row in sorted(_scored_rows(path), key=key):
        firsts.setdefault(row["ordinal"], row["id"])
    return _read(path, list(firsts.values())[:num])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Summary:
    """What is kept of a stored step.

    `reasons`: how often each (status, reason) came; `left_out`: samples that were not trained on, by why;
    `means`: mean reward of each prompt, by its row in the data set.
    """

    interval: tuple[float, float]
    reasons: Mapping[tuple[str, str], int]
    left_out: Mapping[str, int]
    means: Mapping[int, float]


def _summary(path: Path) -> _Summary:
    return _summarised(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=None)  # noqa: UP033 - the page is made again and again while a run goes on; stored steps stay
def _summarised(path: Path, _written: int) -> _Summary:
    rows = _light_rows(path)
    scored = [row for row in rows if row["reward"] is not None]
    prompts: dict[int, list[float]] = {}
    for row in scored:
        prompts.setdefault(row["row"], []).append(row["reward"])
    return _Summary(
        interval=clustered_mean([row["reward"] for row in scored], [row["ordinal"] for row in scored]),
        reasons=Counter((row["status"], row["detail"]) for row in rows if row["status"] != "ok"),
        left_out=Counter(_why_left_out(row) for row in rows if row["advantage"] is None),
        means={row: float(np.mean(rewards)) for row, rewards in prompts.items()},
    )


def _why_left_out(row: Mapping[str, Any]) -> str:
    if row["reward"] is None:
        return f"not scored ({row['status']})"
    return "cut by the length limit" if row["finish_reason"] == "length" else "empty, or nothing to compare it with"


def _light_rows(path: Path) -> list[dict[str, Any]]:
    return read_trajectories(path, _LIGHT).to_pylist()


def _scored_rows(path: Path) -> list[dict[str, Any]]:
    return [row for row in _light_rows(path) if row["reward"] is not None]


def _read(path: Path, ids: Sequence[str]) -> list[Sample]:
    """The samples of these ids, in that order."""
    table = read_trajectories(path)
    mask = pc.is_in(table["id"], value_set=pc.cast(list(ids), "string"))  # pyright: ignore[reportAttributeAccessIssue]
    found = {row["id"]: _sample(row) for row in table.filter(mask).to_pylist()}
    return [found[sample_id] for sample_id in ids]


def _sample(row: Mapping[str, Any]) -> Sample:
    old = row["old_logprobs"]
    return Sample(
        **{
            name: row[name]
            for name in (
                "id", "step", "row", "prompt", "response", "answer", "reward", "status", "detail", "advantage",
                "finish_reason", "worker", "min_version", "max_version",
            )
        },
        parts=dict(row["reward_parts"]),
        tokens=tuple(row["response_tokens"]),
        mask=tuple(row["response_mask"]),
        rollout_logprobs=tuple(row["rollout_logprobs"]),
        versions=tuple(row["versions"]),
        old_logprobs=None if old is None else tuple(old),
    )  # fmt: skip
