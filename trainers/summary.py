"""What one step's groups look like, as metrics."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from experience.records import Group, Scored
from rewards.contract import Status


def summarise(groups: Sequence[Group], version: int) -> Mapping[str, float]:
    """Rewards, verdicts, lengths and staleness of the groups that train policy `version`."""
    samples = [sample for group in groups for sample in group.samples]
    if not samples:
        return {}
    return {
        **_rewards(samples),
        **_groups(groups),
        **_verdicts(samples),
        **_lengths(samples),
        **_staleness(samples, version),
    }


def _rewards(samples: Sequence[Scored]) -> dict[str, float]:
    values = [sample.reward for sample in samples if sample.reward is not None]
    parts: dict[str, list[float]] = {}
    for sample in samples:
        for name, value in sample.score.parts.items():
            parts.setdefault(name, []).append(value)
    whole = {"reward/mean": float(np.mean(values)), "reward/std": float(np.std(values))} if values else {}
    return whole | {f"reward/{name}": float(np.mean(part)) for name, part in parts.items()}


def _groups(groups: Sequence[Group]) -> dict[str, float]:
    """Groups without a signal: every sample that was scored has the same reward."""
    distinct = [len({sample.reward for sample in group.samples if sample.reward is not None}) for group in groups]
    return {"group/equal_fraction": float(np.mean([count <= 1 for count in distinct]))}


def _verdicts(samples: Sequence[Scored]) -> dict[str, float]:
    counts = Counter(sample.score.status for sample in samples)
    return {f"score/{status.value}": float(counts[status]) for status in Status}


def _lengths(samples: Sequence[Scored]) -> dict[str, float]:
    lengths = [sample.trajectory.num_response_tokens for sample in samples]
    return {
        "response/length_mean": float(np.mean(lengths)),
        "response/length_max": float(max(lengths)),
        "response/truncated_fraction": float(np.mean([sample.trajectory.is_truncated for sample in samples])),
    }


def _staleness(samples: Sequence[Scored], version: int) -> dict[str, float]:
    """Versions between the first token's policy and the one that is trained."""
    ages = [version - sample.trajectory.min_version for sample in samples]
    return {"staleness/mean": float(np.mean(ages)), "staleness/max": float(max(ages))}
