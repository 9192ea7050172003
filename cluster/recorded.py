"""What a run's folder says of its speed: lengths of its responses, seconds of its phases."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from experience.store import read_trajectories


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """Means over the steps of a run but the first, which warms up; in seconds and tokens."""

    num_steps: int
    lengths: Sequence[int]  # of responses
    prompt_tokens: int
    tokens_per_step: float
    training: float
    generating: float
    syncing: float
    scoring: float
    step: float

    @property
    def other(self) -> float:
        """What no phase covers."""
        return max(0.0, self.step - self.training - self.generating - self.syncing - self.scoring)


def recorded(folder: Path) -> Recorded:
    """What the folder of a run of reinforcement learning holds. ValueError where it is too little."""
    metrics = _metrics(folder / "metrics.jsonl")
    files = sorted((folder / "trajectories").glob("step_*.parquet"))
    if len(metrics) < 1 or not files:
        raise ValueError(f"--from {folder}: want a run of two steps or more, with its trajectories stored")
    responses, prompts = [], []
    for file in files:
        table = read_trajectories(file)
        responses.append([len(tokens) for tokens in table["response_tokens"].to_pylist()])
        prompts.append([len(tokens) for tokens in table["prompt_tokens"].to_pylist()])
    lengths = [length for step in responses for length in step]
    return Recorded(
        num_steps=len(metrics),
        lengths=lengths,
        prompt_tokens=round(fmean(length for step in prompts for length in step)),
        tokens_per_step=fmean(sum(r) + sum(p) for r, p in zip(responses, prompts, strict=True)),
        **{
            field: fmean(step.get(name, 0.0) for step in metrics)
            for field, name in (
                ("training", "time/train"),
                ("generating", "time/generate"),
                ("syncing", "time/sync"),
                ("scoring", "time/score"),
                ("step", "time/step"),
            )
        },
    )


def _metrics(file: Path) -> list[dict[str, float]]:
    """Of each step after the first, by name."""
    if not file.is_file():
        raise ValueError(f"--from {file.parent}: no metrics.jsonl there; name the folder of a run")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [row for row in rows if "time/train" in row][1:]
