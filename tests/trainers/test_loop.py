"""The loop over light roles: what it samples, trains and publishes, in which order."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from algorithms.table import resolve
from configs.schema import AlgorithmConfig
from experience.records import Batch, BlockHandle, Prompt, Sampling, TokenBlock, Trajectory, Weights
from metrics.meter import Meter
from rewards.contract import RewardInput, Score
from trainers.credit import BatchShape, Credit, CreditAssigner
from trainers.loop import Loop, Observer, Roles, Schedule

SAMPLING = Sampling(num_samples=2, max_response_tokens=4, temperature=1.0, seed=0)


class Numbers:
    """Prompts whose text is their ordinal."""

    def at(self, ordinal: int, count: int = 1) -> list[Prompt]:
        return [
            Prompt(ordinal=o, epoch=0, row=o, tokens=np.zeros(1, np.int32), text=str(o))
            for o in range(ordinal, ordinal + count)
        ]


class Sampler:
    """Answers after `delay(ordinal)` turns of the event loop, with the version it holds at the start."""

    def __init__(self, events: list[str], delay: Mapping[int, int] | None = None) -> None:
        self.events, self.delay, self.version = events, delay or {}, -1
        self.sampled: list[int] = []

    async def generate(self, prompt: Prompt, sampling: Sampling) -> tuple[Trajectory, ...]:
        version = self.version
        self.sampled.append(prompt.ordinal)
        for _ in range(self.delay.get(prompt.ordinal, 1)):
            await asyncio.sleep(0)
        return tuple(trajectory(prompt, index, version) for index in range(sampling.num_samples))

    async def load(self, weights: Weights) -> None:
        self.version = weights.version
        self.events.append(f"load {weights.version}")

    async def block(self, handle: BlockHandle) -> TokenBlock:
        raise NotImplementedError


class SampleIndex:
    """Rewards the second sample of each group."""

    async def score(self, items: Sequence[RewardInput]) -> Sequence[Score]:
        return [Score(value=float(item.response), parts={"index": float(item.response)}) for item in items]


class Recorder:
    """A learner that only remembers."""

    def __init__(self, events: list[str]) -> None:
        self.events = events
        self.batches: list[Batch] = []

    async def update(self, batch: Batch) -> Mapping[str, float]:
        self.batches.append(batch)
        self.events.append("update")
        return {"policy/loss": 0.0}

    async def publish(self, version: int) -> Weights:
        return Weights(version=version, checksum=str(version), handle=None)

    async def refresh_reference(self) -> None:
        self.events.append("refresh")

    async def save(self, folder: Path, state: Mapping[str, Any]) -> None:
        raise NotImplementedError

    async def export(self, folder: Path) -> None:
        raise NotImplementedError


class Keeper(Observer):
    """Remembers what each step was made of."""

    def __init__(self) -> None:
        self.ordinals: list[list[int]] = []
        self.metrics: list[Mapping[str, float]] = []

    def record(self, step: int, credit: Credit, metrics: Mapping[str, float]) -> None:
        self.ordinals.append([group.prompt.ordinal for group in credit.groups])
        self.metrics.append(metrics)


def trajectory(prompt: Prompt, index: int, version: int) -> Trajectory:
    return Trajectory(
        prompt=prompt,
        sample_index=index,
        block="block",
        row=index,
        num_prompt_tokens=1,
        num_response_tokens=2,
        text=str(index),
        finish_reason="stop",
        min_version=version,
        max_version=version,
        mean_logprob=0.0,
        worker="w",
    )


def run_loop(
    *, steps: int, staleness: int = 0, algorithm: str = "dr_grpo", sampler: Sampler | None = None, **options: Any
) -> tuple[Loop, Keeper, Recorder, list[str]]:
    events = sampler.events if sampler else []
    learner = Recorder(events)
    shape = BatchShape(mini_batches=1, epochs=1, num_ranks=1, tokens_per_micro_batch=64, max_response_tokens=4)
    roles = Roles(
        prompts=Numbers(),
        rollouts=sampler or Sampler(events),
        rewards=options.pop("rewards", None) or SampleIndex(),
        learner=learner,
    )
    schedule = Schedule(
        first_step=options.pop("first_step", 0),
        num_steps=steps,
        first_prompt=options.pop("first_prompt", 0),
        prompts_per_step=2,
        max_staleness=staleness,
        sampling=SAMPLING,
        max_dropped_groups=options.pop("max_dropped_groups", 10),
    )
    assigner = CreditAssigner(resolve(AlgorithmConfig(name=algorithm)), shape)
    loop = Loop(schedule=schedule, roles=roles, assigner=assigner, meter=Meter())
    keeper = Keeper()
    asyncio.run(loop.run(keeper, **options))
    return loop, keeper, learner, events


def test_on_policy_steps_take_turns_and_use_each_prompt_once() -> None:
    loop, keeper, _, events = run_loop(steps=3)
    assert keeper.ordinals == [[0, 1], [2, 3], [4, 5]]
    assert events == ["load 0", "update", "load 1", "update", "load 2", "update", "load 3"]
    assert [m["staleness/max"] for m in keeper.metrics] == [0, 0, 0]
    assert loop.state() == {"cursor": 6, "begun": []}


def test_advantages_reach_the_batch() -> None:
    _, _, learner, _ = run_loop(steps=1)
    (mini_batch,) = learner.batches[0].mini_batches
    items = [item for rank in mini_batch.ranks for micro in rank for item in micro]
    assert sorted(item.advantage for item in items) == [-0.5, -0.5, 0.5, 0.5]
    assert mini_batch.num_loss_tokens == 8


def test_a_slow_group_keeps_within_the_staleness_bound() -> None:
    sampler = Sampler([], delay={0: 400})
    _, keeper, _, _ = run_loop(steps=4, staleness=1, sampler=sampler)
    assert sorted(ordinal for step in keeper.ordinals for ordinal in step) == list(range(8))
    assert max(m["staleness/max"] for m in keeper.metrics) == 1
    assert 0 in keeper.ordinals[1]


def test_groups_of_equal_rewards_are_replaced_under_dynamic_sampling() -> None:
    class FirstPromptTeachesNothing(SampleIndex):
        async def score(self, items: Sequence[RewardInput]) -> Sequence[Score]:
            if items[0].prompt == "0":
                return [Score(value=1.0) for _ in items]
            return await super().score(items)

    _, keeper, _, _ = run_loop(steps=1, algorithm="dapo", rewards=FirstPromptTeachesNothing())
    assert keeper.ordinals == [[1, 2]]


def test_dynamic_sampling_keeps_what_it_gets_once_its_limit_is_reached() -> None:
    class NothingTeaches(SampleIndex):
        async def score(self, items: Sequence[RewardInput]) -> Sequence[Score]:
            return [Score(value=1.0, parts={"index": 1.0}) for _ in items]

    _, keeper, _, _ = run_loop(steps=1, algorithm="dapo", rewards=NothingTeaches(), max_dropped_groups=3)
    assert keeper.ordinals == [[3, 4]]
    assert keeper.metrics[0]["group/dropped"] == 3


def test_an_unscorable_sample_is_left_out_of_the_baseline_and_the_batch() -> None:
    class SecondFails(SampleIndex):
        async def score(self, items: Sequence[RewardInput]) -> Sequence[Score]:
            return [Score(value=None), *[Score(value=1.0) for _ in items[1:]]]

    _, keeper, learner, _ = run_loop(steps=1, rewards=SecondFails())
    assert learner.batches == []
    assert keeper.metrics[0]["reward/mean"] == 1.0


def test_prompts_begun_before_a_resume_come_first() -> None:
    _, keeper, _, events = run_loop(steps=4, first_step=2, first_prompt=9, unfinished=[3])
    assert keeper.ordinals == [[3, 9], [10, 11]]
    assert events[0] == "load 2"


def test_a_failing_rollout_ends_the_run_with_its_own_error() -> None:
    class Broken(Sampler):
        async def generate(self, prompt: Prompt, sampling: Sampling) -> tuple[Trajectory, ...]:
            raise RuntimeError("engine 3 is gone")

    with pytest.raises(RuntimeError, match="engine 3 is gone"):
        run_loop(steps=1, sampler=Broken([]))


def test_stop_ends_after_the_step_that_runs() -> None:
    class StopsAfterFirst(Keeper):
        async def after_step(self, step: int) -> None:
            loop.stop()

    shape = BatchShape(mini_batches=1, epochs=1, num_ranks=1, tokens_per_micro_batch=64, max_response_tokens=4)
    roles = Roles(prompts=Numbers(), rollouts=Sampler([]), rewards=SampleIndex(), learner=Recorder([]))
    schedule = Schedule(first_step=0, num_steps=9, prompts_per_step=2, max_staleness=0, sampling=SAMPLING)
    assigner = CreditAssigner(resolve(AlgorithmConfig(name="dr_grpo")), shape)
    loop = Loop(schedule=schedule, roles=roles, assigner=assigner, meter=Meter())
    asyncio.run(loop.run(StopsAfterFirst()))
    assert loop.step == 1


def test_cut_responses_are_left_out_of_the_batch_where_the_row_masks_them() -> None:
    class Cut(Sampler):
        async def generate(self, prompt: Prompt, sampling: Sampling) -> tuple[Trajectory, ...]:
            first, *others = await super().generate(prompt, sampling)
            return replace(first, finish_reason="length"), *others

    def num_items(**columns: object) -> int:
        config = AlgorithmConfig.model_validate({"name": "dr_grpo", **columns})
        shape = BatchShape(mini_batches=1, epochs=1, num_ranks=1, tokens_per_micro_batch=64, max_response_tokens=4)
        learner = Recorder([])
        roles = Roles(prompts=Numbers(), rollouts=Cut([]), rewards=SampleIndex(), learner=learner)
        schedule = Schedule(first_step=0, num_steps=1, prompts_per_step=2, max_staleness=0, sampling=SAMPLING)
        loop = Loop(schedule=schedule, roles=roles, assigner=CreditAssigner(resolve(config), shape), meter=Meter())
        asyncio.run(loop.run(Keeper()))
        return learner.batches[0].mini_batches[0].num_sequences

    assert (num_items(), num_items(mask_truncated=True)) == (4, 2)
