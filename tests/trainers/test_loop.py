"""The loop over light roles: what it samples, trains and publishes, in which order."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from algorithms.table import resolve
from configs.schema import AlgorithmConfig
from experience.columns import Place
from experience.records import Batch, BlockHandle, Prompt, Sampling, TokenBlock, Trajectory, Weights
from metrics.meter import Meter
from rewards.contract import RewardError, RewardInput, Score
from trainers.checkpoint import Written
from trainers.credit import BatchShape, Credit, CreditAssigner
from trainers.loop import Loop, Schedule
from trainers.observer import Observer
from trainers.roles import Roles

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

    def metrics(self) -> Mapping[str, float]:
        return {"rollout/workers": 1.0}

    async def block(self, handle: BlockHandle) -> TokenBlock:
        raise NotImplementedError


class SampleIndex:
    """Rewards the second sample of each group."""

    async def score(self, items: Sequence[RewardInput]) -> Sequence[Score]:
        return [Score(value=float(item.response), parts={"index": float(item.response)}) for item in items]


class Recorder:
    """A learner that only remembers."""

    def __init__(self, events: list[str], *, scores_first: bool = False) -> None:
        self.events = events
        self.batches: list[Batch] = []
        self.scores_first = scores_first

    async def score(self, batch: Batch) -> None:
        raise NotImplementedError

    async def update(self, batch: Batch) -> Mapping[str, float]:
        self.batches.append(batch)
        self.events.append("update")
        return {"policy/loss": 0.0}

    async def publish(self, version: int) -> Weights:
        return Weights(version=version, checksum=str(version), handle=None)

    async def divergences(self, batch: Batch) -> Mapping[Place, float]:
        raise NotImplementedError

    async def refresh_reference(self) -> None:
        self.events.append("refresh")

    async def save(self, draft: Path) -> Written:
        raise NotImplementedError

    async def load(self, folder: Path) -> Mapping[str, Any]:
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
        prompts_per_step=2,
        max_staleness=staleness,
        sampling=SAMPLING,
        max_dropped_groups=options.pop("max_dropped_groups", 10),
        max_error_rate=options.pop("max_error_rate", 0.01),
        stop_after_equal_steps=options.pop("stop_after_equal_steps", None),
    )
    assigner = CreditAssigner(resolve(AlgorithmConfig(name=algorithm)), shape)
    loop = Loop(schedule=schedule, roles=roles, assigner=assigner, meter=Meter())
    keeper = Keeper()
    if state := options.pop("state", None):
        loop.restore(state, options.pop("waiting", ()))
    asyncio.run(loop.run(keeper))
    return loop, keeper, learner, events


def test_on_policy_steps_take_turns_and_use_each_prompt_once() -> None:
    loop, keeper, _, events = run_loop(steps=3)
    assert keeper.ordinals == [[0, 1], [2, 3], [4, 5]]
    assert events == ["load 0", "update", "load 1", "update", "load 2", "update", "load 3"]
    assert [m["staleness/max"] for m in keeper.metrics] == [0, 0, 0]
    assert loop.state() == {"cursor": 6, "begun": [], "waiting": [], "dropped": 0, "equal_steps": 0}


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


class EqualInSteps(SampleIndex):
    """Equal rewards for the prompts of these steps."""

    def __init__(self, *steps: int) -> None:
        self.steps = steps

    async def score(self, items: Sequence[RewardInput]) -> Sequence[Score]:
        if int(items[0].prompt) // 2 in self.steps:
            return [Score(value=1.0, parts={"index": 1.0}) for _ in items]
        return await super().score(items)


def test_steps_of_equal_rewards_in_a_row_stop_the_run_where_it_asks_for_that() -> None:
    with pytest.raises(RewardError, match=r"2 steps in a row had equal rewards.*every reward of the last one is 1\.0"):
        run_loop(steps=6, rewards=EqualInSteps(1, 3, 4), stop_after_equal_steps=2)
    loop, *_ = run_loop(steps=6, rewards=EqualInSteps(1, 3, 5), stop_after_equal_steps=2)
    assert loop.step == 6
    loop, *_ = run_loop(steps=3, rewards=EqualInSteps(0, 1, 2))
    assert loop.step == 3


def test_an_unscorable_sample_is_left_out_of_the_baseline_and_the_batch() -> None:
    class SecondFails(SampleIndex):
        async def score(self, items: Sequence[RewardInput]) -> Sequence[Score]:
            return [Score(value=None), *[Score(value=1.0) for _ in items[1:]]]

    _, keeper, learner, _ = run_loop(steps=1, rewards=SecondFails())
    assert [batch.mini_batches for batch in learner.batches] == [()]
    assert keeper.metrics[0]["reward/mean"] == 1.0


class Broken(Sampler):
    """Every so many prompts its log-probs are no numbers."""

    def __init__(self, events: list[str], every: int) -> None:
        super().__init__(events)
        self.every = every

    async def generate(self, prompt: Prompt, sampling: Sampling) -> tuple[Trajectory, ...]:
        sound = await super().generate(prompt, sampling)
        if prompt.ordinal % self.every:
            return sound
        return (sound[0], replace(sound[1], mean_logprob=math.nan, worker="rollout-7"))


def test_a_sample_without_numbers_for_log_probs_is_left_out_and_counted() -> None:
    _, keeper, learner, _ = run_loop(steps=1, sampler=Broken([], every=2), max_error_rate=0.3)
    assert keeper.metrics[0]["score/unsound"] == 1
    rows = [item.row for batch in learner.batches for micro in batch.mini_batches[0].ranks[0] for item in micro]
    assert len(rows) == 2  # the other sample of its group has none to be compared with


def test_too_many_of_them_end_the_run_and_name_the_engine() -> None:
    with pytest.raises(RewardError, match=r"1 unsound.*rollout-7 gave log-probs that are not numbers"):
        run_loop(steps=1, sampler=Broken([], every=2))


def test_prompts_begun_before_a_resume_come_first() -> None:
    state = {"cursor": 9, "begun": [3], "waiting": [], "dropped": 0, "equal_steps": 0}
    _, keeper, _, events = run_loop(steps=4, first_step=2, state=state)
    assert keeper.ordinals == [[3, 9], [10, 11]]
    assert events[0] == "load 2"


def test_groups_that_waited_before_a_resume_are_not_sampled_again() -> None:
    class SavesAfterFirst(Keeper):
        async def after_step(self, step: int) -> None:
            if step == 1:
                saved.update(state=loop.state(), waiting=list(loop.waiting))
                loop.stop()

    saved: dict[str, Any] = {}
    shape = BatchShape(mini_batches=1, epochs=1, num_ranks=1, tokens_per_micro_batch=64, max_response_tokens=4)
    # Prompt 3 takes so long that it is in flight when the run ends; the others of the second step wait.
    roles = Roles(prompts=Numbers(), rollouts=Sampler([], {3: 10_000}), rewards=SampleIndex(), learner=Recorder([]))
    schedule = Schedule(first_step=0, num_steps=9, prompts_per_step=2, max_staleness=1, sampling=SAMPLING)
    assigner = CreditAssigner(resolve(AlgorithmConfig(name="dr_grpo")), shape)
    loop = Loop(schedule=schedule, roles=roles, assigner=assigner, meter=Meter())
    asyncio.run(loop.run(SavesAfterFirst()))
    assert saved["state"]["begun"] == [3]
    assert saved["state"]["waiting"] == [[2, 0]]

    sampler = Sampler([])
    _, keeper, _, _ = run_loop(steps=3, staleness=1, first_step=1, sampler=sampler, **saved)
    assert sampler.sampled == [3, *range(4, max(sampler.sampled) + 1)]
    assert keeper.ordinals == [[2, 3], [4, 5]]
    assert [metrics["staleness/max"] for metrics in keeper.metrics] == [1, 1]


def test_a_failing_rollout_ends_the_run_with_its_own_error() -> None:
    class Broken(Sampler):
        async def generate(self, prompt: Prompt, sampling: Sampling) -> tuple[Trajectory, ...]:
            raise RuntimeError("engine 3 is gone")

    with pytest.raises(RuntimeError, match="engine 3 is gone"):
        run_loop(steps=1, sampler=Broken([]))


def test_a_step_that_is_learned_counts_and_one_that_was_cut_short_is_known() -> None:
    """Else a checkpoint would hold weights that have moved on from its step, which would then be learned twice."""

    class LosesWorkers(Sampler):
        async def load(self, weights: Weights) -> None:
            if weights.version == lost_at:
                raise RuntimeError("no worker is left")
            await super().load(weights)

    class CutShort(Recorder):
        async def update(self, batch: Batch) -> Mapping[str, float]:
            if len(self.batches) + 1 == cut_at:
                raise RuntimeError("no worker is left")
            return await super().update(batch)

    found = {}
    for lost_at, cut_at in ((0, None), (2, None), (None, 2)):
        shape = BatchShape(mini_batches=1, epochs=1, num_ranks=1, tokens_per_micro_batch=64, max_response_tokens=4)
        roles = Roles(prompts=Numbers(), rollouts=LosesWorkers([]), rewards=SampleIndex(), learner=CutShort([]))
        schedule = Schedule(first_step=0, num_steps=3, prompts_per_step=2, max_staleness=0, sampling=SAMPLING)
        assigner = CreditAssigner(resolve(AlgorithmConfig(name="dr_grpo")), shape)
        loop = Loop(schedule=schedule, roles=roles, assigner=assigner, meter=Meter())
        with pytest.raises(RuntimeError, match="no worker is left"):
            asyncio.run(loop.run(keeper := Keeper()))
        found[lost_at, cut_at] = loop.step, loop.is_between_steps, len(keeper.ordinals)
    assert found == {(0, None): (0, True, 0), (2, None): (2, True, 2), (None, 2): (1, False, 1)}


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


def test_remax_compares_with_a_greedy_response_that_is_not_trained_on() -> None:
    greedy = replace(SAMPLING, num_samples=1, temperature=0.0)
    temperatures: list[float] = []
    ids: list[str] = []

    class Watched(Sampler):
        async def generate(self, prompt: Prompt, sampling: Sampling) -> tuple[Trajectory, ...]:
            temperatures.append(sampling.temperature)
            return await super().generate(prompt, sampling)

    class GreedyIsWorthAQuarter(SampleIndex):
        async def score(self, items: Sequence[RewardInput]) -> Sequence[Score]:
            ids.extend(item.id for item in items)
            return [*(await super().score(items[:2])), Score(value=0.25, parts={"index": 0.25})]

    learner = Recorder([])
    shape = BatchShape(mini_batches=1, epochs=1, num_ranks=1, tokens_per_micro_batch=64, max_response_tokens=4)
    roles = Roles(prompts=Numbers(), rollouts=Watched([]), rewards=GreedyIsWorthAQuarter(), learner=learner)
    schedule = Schedule(
        first_step=0, num_steps=1, prompts_per_step=2, max_staleness=0, sampling=SAMPLING, greedy=greedy
    )
    assigner = CreditAssigner(resolve(AlgorithmConfig(name="remax")), shape)
    keeper = Keeper()
    asyncio.run(Loop(schedule=schedule, roles=roles, assigner=assigner, meter=Meter()).run(keeper))
    items = [item for rank in learner.batches[0].mini_batches[0].ranks for micro in rank for item in micro]
    assert sorted(item.advantage for item in items) == [-0.25, -0.25, 0.75, 0.75]
    assert sorted(temperatures[:4]) == [0.0, 0.0, 1.0, 1.0]
    assert len(set(ids)) == len(ids) == 6
    assert keeper.metrics[0]["reward/mean"] == 0.5


def test_the_reference_follows_the_policy_every_few_steps() -> None:
    events: list[str] = []
    shape = BatchShape(mini_batches=1, epochs=1, num_ranks=1, tokens_per_micro_batch=64, max_response_tokens=4)
    roles = Roles(prompts=Numbers(), rollouts=Sampler(events), rewards=SampleIndex(), learner=Recorder(events))
    schedule = Schedule(
        first_step=0, num_steps=4, prompts_per_step=2, max_staleness=0, sampling=SAMPLING, reference_refresh_steps=2
    )
    row = resolve(AlgorithmConfig(name="grpo", reference_refresh_steps=2))
    asyncio.run(Loop(schedule=schedule, roles=roles, assigner=CreditAssigner(row, shape), meter=Meter()).run(Keeper()))
    assert [event for event in events if event != "update" and "load" not in event] == ["refresh", "refresh"]
    assert events.index("refresh") == events.index("load 2") - 1


def test_the_critic_is_warmed_up_before_the_policy_moves() -> None:
    learner = Recorder([])
    shape = BatchShape(mini_batches=1, epochs=2, num_ranks=1, tokens_per_micro_batch=64, max_response_tokens=4)
    roles = Roles(prompts=Numbers(), rollouts=Sampler([]), rewards=SampleIndex(), learner=learner)
    schedule = Schedule(first_step=0, num_steps=3, prompts_per_step=2, max_staleness=0, sampling=SAMPLING)
    row = resolve(AlgorithmConfig(name="ppo", critic_warmup_steps=2))
    asyncio.run(Loop(schedule=schedule, roles=roles, assigner=CreditAssigner(row, shape), meter=Meter()).run(Keeper()))
    assert [batch.trains_policy for batch in learner.batches] == [False, False, True]
    assert [len(batch.updates) for batch in learner.batches] == [2, 2, 2]
    (mini_batch,) = learner.batches[0].mini_batches
    rewards = [item.reward for rank in mini_batch.ranks for micro in rank for item in micro]
    assert sorted(rewards) == [0.0, 0.0, 1.0, 1.0]  # the ranks make advantages of them, token by token


def test_the_kl_coefficient_is_steered_and_goes_on_after_a_resume() -> None:
    shape = BatchShape(mini_batches=1, epochs=1, num_ranks=1, tokens_per_micro_batch=64, max_response_tokens=4)
    row = resolve(AlgorithmConfig(name="grpo", kl_coef=0.1, kl_target=0.01, kl_horizon=10))
    assigner = CreditAssigner(row, shape)

    class Diverging(Recorder):
        async def update(self, batch: Batch) -> Mapping[str, float]:
            await super().update(batch)
            return {"policy/kl_ref": 1.0}

    learner = Diverging([])
    roles = Roles(prompts=Numbers(), rollouts=Sampler([]), rewards=SampleIndex(), learner=learner)
    schedule = Schedule(first_step=0, num_steps=2, prompts_per_step=2, max_staleness=0, sampling=SAMPLING)
    asyncio.run(Loop(schedule=schedule, roles=roles, assigner=assigner, meter=Meter()).run(Keeper()))
    assert [batch.kl_coef for batch in learner.batches] == pytest.approx([0.1, 0.1 * 1.08])  # 4 samples of 10
    later = CreditAssigner(row, shape)
    later.restore(assigner.state())
    assert later.state()["kl_coef"] == pytest.approx(0.1 * 1.08**2)
