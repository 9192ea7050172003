"""The stages that make data of what a model says: preferences, and rejection sampling."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from cluster.folder import RunFolder
from cluster.sampling import Inputs, parts_of, read_inputs, read_samples, sample
from cluster.stopping import Stop
from configs.handed import OUTPUTS
from configs.schema import PreferencesStage, RejectionSamplingStage, RewardSpec
from experience.parquet import write_parquet
from experience.sampled_data import Sample, SampledPrompt, comparison, imitable, share_of_flipped_pairs

_SAMPLES = "samples"


def preferences(stage: PreferencesStage, folder: RunFolder) -> str:
    """Write the comparisons; says how many there are. ValueError where there are none."""
    inputs = read_inputs(stage, folder, num_eval_prompts=stage.num_eval_prompts)
    said = ""
    for name, sampled in _sampled(stage, inputs, folder, stage.rewards).items():
        rows = [_comparison(one, stage) for one in sampled]
        kept = [row for row in rows if row is not None]
        if not kept:
            raise ValueError(
                f"no prompt of {len(sampled)} ({name}) has two different responses with different ratings: raise "
                "samples_per_prompt or rollout.sampling.temperature, or compare by a finer reward"
            )
        _write(kept, folder.path / OUTPUTS["preferences"][name])
        said = said or _told(kept, len(sampled), stage)
    return said


def rejection_sampling(stage: RejectionSamplingStage, folder: RunFolder) -> str:
    """Write the responses that were kept; says how many there are. ValueError where there are none."""
    inputs = read_inputs(stage, folder)
    rewards = (*stage.rewards, *(rule.reward for rule in stage.readable))
    sampled = _sampled(stage, inputs, folder, rewards)["train"]

    def is_readable(one: Sample) -> bool:
        return all(one.parts.get(rule.reward.label, -float("inf")) >= rule.at_least for rule in stage.readable)

    chosen = [
        imitable(one, threshold=stage.threshold, is_readable=is_readable, at_most=stage.max_per_prompt)
        for one in sampled
    ]
    rows = [row for kept in chosen for row in kept]
    if not rows:
        raise ValueError(
            f"none of {len(sampled)} prompts has a response with a reward of {stage.threshold:g} or more that is "
            "readable: lower threshold, raise samples_per_prompt, or sample a better model"
        )
    _write(rows, folder.path / OUTPUTS["rejection_sampling"]["train"])
    return f"{len(rows)} responses to {sum(map(bool, chosen))} of {len(sampled)} prompts"


def _sampled(
    stage: PreferencesStage | RejectionSamplingStage, inputs: Inputs, folder: RunFolder, rewards: Sequence[RewardSpec]
) -> dict[str, list[SampledPrompt]]:
    """All samples, by source; what an earlier process has sampled is not sampled again."""
    parts = parts_of(stage, inputs, folder.path / _SAMPLES)
    if missing := [part for part in parts if not part.file.exists()]:
        work = sample(stage, inputs, missing, rewards, stage.samples_per_prompt)
        asyncio.run(Stop(grace_seconds=0).guards(work))
    found: dict[str, list[SampledPrompt]] = {}
    for part in parts:
        found.setdefault(part.source.name, []).extend(read_samples(part))
    return found


def _comparison(sampled: SampledPrompt, stage: PreferencesStage) -> dict[str, Any] | None:
    return comparison(sampled, temperature=stage.label_temperature, seed=stage.seed)


def _told(rows: list[dict[str, Any]], num_prompts: int, stage: PreferencesStage) -> str:
    mean = sum(len(row["responses"]) for row in rows) / len(rows)
    flipped = f", {100 * share_of_flipped_pairs(rows):.0f} % of pairs flipped" if stage.label_temperature else ""
    return f"{len(rows)} comparisons of {num_prompts} prompts, {mean:.1f} responses each{flipped}"


def _write(rows: list[dict[str, Any]], file: Path) -> None:
    write_parquet(pa.Table.from_pylist(rows), file)
