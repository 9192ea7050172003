"""Runs' folders made by the project's own writers, from made-up numbers."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from configs.dump import dump_run
from configs.schema import Run
from experience.records import Group, Prompt, Scored, TokenBlock, Trajectory
from experience.store import write_trajectories
from metrics.jsonl_sink import JsonlSink
from metrics.timeline import Span, Timeline
from rewards.contract import Score, Status

PROMPTS, SAMPLES = 8, 4
# In the order of the tokenizer's file that `make_run` leaves in the run's folder.
WORDS = ["yes", " no", " it", " is", " 7", " ", "<|end|>"]

Metrics = Mapping[str, float]


def recipe(name: str, folder: Path, **changes: Any) -> Run:
    return TypeAdapter(Run).validate_python(
        {
            "stage": "rl",
            "name": name,
            "output_dir": str(folder),
            "model": {"path": "models/tiny"},
            "data": {"train": "prompts.jsonl"},
            "num_steps": 200,
            "algorithm": {"name": "grpo", "kl_coef": 0.01},
            "rewards": [{"use": "math"}],
            **changes,
        }
    )


def learning(step: int) -> Metrics:
    """The metrics of a run that goes well, all digits wiggling."""
    wiggle = math.sin(step * 1.7)
    return {
        "reward/mean": 0.8 - 0.5 * math.exp(-step / 50) + 0.01 * wiggle,
        "reward/std": 0.3 + 0.01 * wiggle,
        "reward/math": 0.7 - 0.5 * math.exp(-step / 50),
        "reward/format": 0.9 + 0.01 * wiggle,
        "policy/entropy": 0.8 + 0.05 * wiggle,
        "policy/kl_ref": 0.001 * step,
        "policy/clip_fraction_low": 0.01,
        "policy/clip_fraction_high": 0.02,
        "mismatch/kl": 1e-5 * (1 + 0.1 * wiggle),
        "response/length_mean": 40 + wiggle,
        "response/length_max": 60.0,
        "response/truncated_fraction": 0.02,
        "group/equal_fraction": 0.3,
        "group/dropped": 0.0,
        "staleness/mean": 0.5,
        "staleness/max": 1.0,
        "score/ok": 30.0,
        "score/no_answer": 1.0,
        "score/timeout": 0.0,
        "optimizer/grad_norm": 1 + 0.1 * wiggle,
        "throughput/tokens_per_second": 9000 + 100 * wiggle,
        "throughput/mfu": 0.31,
        "memory/host_peak": 2.5,
        "time/step": 3.0,
        "time/generate": 1.4,
        "time/train": 1.3,
        "time/other": 0.3,
        **({"eval/accuracy": 0.3 + step / 1000, **_interval(0.3 + step / 1000)} if step % 20 == 0 else {}),
    }


def _interval(value: float) -> Metrics:
    return {"eval/accuracy_low": value - 0.05, "eval/accuracy_high": value + 0.05}


def make_run(
    folder: Path,
    name: str = "made",
    *,
    num_steps: int = 20,
    stored: tuple[int, ...] = (1, 20),
    metrics: Any = learning,
    texts: tuple[str, ...] = ("yes it is 7",),
    has_tokenizer: bool = True,
    is_over: bool = True,
    **changes: Any,
) -> Path:
    """A run's folder. `texts`: the responses, in turn; with a tokenizer only the default can be told apart."""
    run = recipe(name, folder, **changes)
    place = folder / name
    (place / "trajectories").mkdir(parents=True)
    (place / "config.yaml").write_text(dump_run(run))
    sink = JsonlSink(place / "metrics.jsonl")
    for step in range(1, num_steps + 1):
        sink.write(step, metrics(step))
    sink.close()
    for step in stored:
        write_step(place / "trajectories" / f"step_{step:06d}.parquet", step, texts)
    if has_tokenizer:
        write_tokenizer(place / "tokenizer")
    if is_over:
        write_timeline(place / "timeline.json", num_steps)
    return place


def write_step(path: Path, step: int, texts: tuple[str, ...], *, old_logprobs: bool = False) -> None:
    """Rewards rise with the step; the last sample of each group timed out. Rows 0 to 7 recur in every step."""
    groups, blocks, advantages = [], [], []
    for place in range(PROMPTS):
        block = _block(SAMPLES, step)
        prompt = Prompt(
            ordinal=step * PROMPTS + place, epoch=0, row=place, tokens=np.array([5, 5], np.int32), text=f"is {place}?",
            answer="7",
        )  # fmt: skip
        samples = tuple(
            Scored(trajectory=_trajectory(prompt, index, block, step, texts), score=_score(place, index, step))
            for index in range(SAMPLES)
        )
        groups.append(Group(prompt=prompt, samples=samples))
        blocks += [block] * SAMPLES
        advantages += [None if sample.reward is None else sample.reward - 0.5 for sample in samples]
    old = [np.full(5, -0.5, np.float32) for _ in blocks] if old_logprobs else None
    write_trajectories(path, step, groups, advantages, blocks, old)


def write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models

    folder.mkdir(parents=True)
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token=" "))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<|end|>"])
    tokenizer.save(str(folder / "tokenizer.json"))


def write_timeline(path: Path, num_steps: int) -> None:
    timeline = Timeline()
    for step in range(num_steps):
        begin = 10.0 + 3 * step
        for name, start, end in (("generate", 0.0, 1.4), ("train", 1.4, 2.7), ("sync", 2.7, 2.9)):
            timeline.add(Span(name=name, start=begin + start, end=begin + end))
    timeline.write(path)


def _trajectory(prompt: Prompt, index: int, block: TokenBlock, step: int, texts: tuple[str, ...]) -> Trajectory:
    return Trajectory(
        prompt=prompt, sample_index=index, block=block, row=index, num_prompt_tokens=2, num_response_tokens=5,
        text=texts[index % len(texts)], finish_reason="stop", min_version=max(step - 2, 0), max_version=step - 1,
        mean_logprob=-0.5, worker="rollout-0",
    )  # fmt: skip


def _score(place: int, index: int, step: int) -> Score:
    if index == SAMPLES - 1:
        return Score(value=None, status=Status.TIMEOUT, detail="took longer than 5 s")
    value = float(step > 10) if place % 2 else 0.1 * index
    return Score(value=value, parts={"math": value, "format": 1.0})


def _block(count: int, step: int) -> TokenBlock:
    """Two tokens of prompt and `yes it is 7 <|end|>`, less and less likely."""
    length = 7
    return TokenBlock(
        offsets=np.arange(count + 1) * length,
        tokens=np.array([5, 5, 0, 2, 3, 4, 6] * count, np.int32),
        response_mask=np.array([False, False, True, True, True, True, True] * count),
        rollout_logprobs=np.array([0, 0, -0.01, -0.3, -1.0, -3.0, -6.0] * count, np.float32),
        versions=np.array(([-1, -1] + [max(step - 2, 0)] * 2 + [step - 1] * 3) * count, np.int32),
    )
