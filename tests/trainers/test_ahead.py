"""Scoring ahead: what the learner is asked about before a step is whole, and in which order."""

import asyncio
import random
from collections.abc import Iterator, Mapping

import pytest

from algorithms.table import resolve
from configs.schema import AlgorithmConfig
from experience.records import Batch, Group, Prompt, Sampling, Scored, Trajectory
from metrics.meter import Meter
from rewards.contract import Score
from tests.trainers.test_loop import SAMPLING, Keeper, Numbers, Recorder, SampleIndex, Sampler
from trainers.credit import BatchShape, CreditAssigner
from trainers.loop import Loop, Schedule
from trainers.roles import Roles


class Gate(Sampler):
    """Every group has a block of its own, and comes when it is let through."""

    def __init__(self, events: list[str]) -> None:
        super().__init__(events)
        self.gates: dict[int, asyncio.Event] = {}

    def gate(self, ordinal: int) -> asyncio.Event:
        return self.gates.setdefault(ordinal, asyncio.Event())

    async def generate(self, prompt: Prompt, sampling: Sampling) -> tuple[Trajectory, ...]:
        group = await super().generate(prompt, sampling)
        await self.gate(prompt.ordinal).wait()
        block = f"block of {prompt.ordinal}"
        return tuple(Trajectory(**{name: getattr(t, name) for name in t.__slots__} | {"block": block}) for t in group)


class Scorer(Recorder):
    """Remembers what it was asked to score, in passes, and by which blocks."""

    def __init__(self, events: list[str]) -> None:
        super().__init__(events, scores_first=True)
        self.asked: list[list[str]] = []
        self.is_busy = False

    async def score(self, batch: Batch) -> None:
        assert not self.is_busy
        self.is_busy = True
        await asyncio.sleep(0)
        self.is_busy = False
        self.asked.append([f"{batch.blocks[block]}.{row}" for block, row in places(batch)])
        self.events.append("score")

    async def update(self, batch: Batch) -> Mapping[str, float]:
        assert not self.is_busy
        named = {f"{batch.blocks[block]}.{row}" for block, row in places(batch)}
        scored = [name for asked in self.asked for name in asked]
        assert named <= set(scored), "all is scored before the update"
        assert len(scored) == len(set(scored)), "nothing is scored twice"
        return await super().update(batch)


def places(batch: Batch) -> Iterator[tuple[int, int]]:
    for mini_batch in batch.mini_batches:
        for rank in mini_batch.ranks:
            yield from ((item.block, item.row) for micro in rank for item in micro)


def make_loop(sampler: Gate, learner: Scorer, *, steps: int = 1, staleness: int = 0, prompts: int = 5) -> Loop:
    """Groups of two sequences of three tokens; two of them fill a pass of the two ranks."""
    shape = BatchShape(mini_batches=1, epochs=2, num_ranks=2, tokens_per_micro_batch=6, max_response_tokens=4)
    schedule = Schedule(
        first_step=0, num_steps=steps, prompts_per_step=prompts, max_staleness=staleness, sampling=SAMPLING
    )
    roles = Roles(prompts=Numbers(), rollouts=sampler, rewards=SampleIndex(), learner=learner)
    assigner = CreditAssigner(resolve(AlgorithmConfig(name="dr_grpo")), shape)
    return Loop(schedule=schedule, roles=roles, assigner=assigner, meter=Meter())


async def settle() -> None:
    for _ in range(60):
        await asyncio.sleep(0)


def test_a_full_pass_is_scored_while_others_are_sampled() -> None:
    async def run() -> None:
        sampler, keeper = Gate([]), Keeper()
        learner = Scorer(sampler.events)
        work = asyncio.create_task(make_loop(sampler, learner).run(keeper))
        for ordinal in (1, 2, 3):
            sampler.gate(ordinal).set()
        await settle()
        assert learner.asked == [], "the first group is not there, and what is cut depends on it"
        sampler.gate(0).set()
        await settle()
        assert [sorted(asked) for asked in learner.asked] == [[f"block of {o}.{row}" for o in (0, 1) for row in (0, 1)]]
        sampler.gate(4).set()
        await work
        assert [len(asked) for asked in learner.asked] == [4, 4, 2]
        assert sampler.events == ["load 0", "score", "score", "score", "update", "load 1"]
        assert keeper.metrics[0]["throughput/scored_ahead"] in (2 / 5, 4 / 5)

    asyncio.run(run())


@pytest.mark.parametrize("seed", range(20))
def test_on_policy_the_passes_are_the_same_in_whatever_order_groups_finish(seed: int) -> None:
    async def passes(order: list[int]) -> list[list[str]]:
        sampler = Gate([])
        learner = Scorer(sampler.events)
        work = asyncio.create_task(make_loop(sampler, learner, steps=2).run(Keeper()))
        for ordinal in order:
            sampler.gate(ordinal).set()
            for _ in range(random.Random(seed + ordinal).randrange(6)):
                await asyncio.sleep(0)
        await work
        return learner.asked

    order = random.Random(seed).sample(range(10), 10)
    assert asyncio.run(passes(order)) == asyncio.run(passes(list(range(10))))


def test_a_resumed_step_has_the_passes_of_one_that_was_not_interrupted() -> None:
    """Groups that waited in the checkpoint are there before those that are begun again, and must not come first."""

    async def passes(*, is_resumed: bool) -> list[list[str]]:
        sampler = Gate([])
        learner = Scorer(sampler.events)
        for ordinal in range(5):
            sampler.gate(ordinal).set()
        loop = make_loop(sampler, learner)
        if is_resumed:
            state = {
                "cursor": 5,
                "dropped": 0,
                "equal_steps": 0,
                "begun": [0, 2],
                "waiting": [[o, 0] for o in (3, 1, 4)],
            }
            loop.restore(state, [await finished(ordinal) for ordinal in (3, 1, 4)])
        await loop.run(Keeper())
        return learner.asked

    assert asyncio.run(passes(is_resumed=True)) == asyncio.run(passes(is_resumed=False))


async def finished(ordinal: int) -> Group:
    sampler = Gate([])
    sampler.gate(ordinal).set()
    trajectories = await sampler.generate(*Numbers().at(ordinal), SAMPLING)
    return Group(
        prompt=trajectories[0].prompt,
        samples=tuple(Scored(trajectory=t, score=Score(value=float(t.text))) for t in trajectories),
    )


def test_off_policy_nothing_is_scored_by_weights_that_an_update_is_about_to_move() -> None:
    """Groups for later steps wait for the weights of their own step, also while a step is being trained."""

    async def run() -> None:
        sampler = Gate([])
        learner = Scorer(sampler.events)
        for ordinal in range(20):
            sampler.gate(ordinal).set()
        await make_loop(sampler, learner, steps=4, staleness=1).run(Keeper())
        since = 0
        for number, batch in enumerate(learner.batches):
            upto = [index for index, event in enumerate(sampler.events) if event == "update"][number]
            num_scored = sampler.events[:upto].count("score")
            asked = {name for names in learner.asked[since:num_scored] for name in names}
            assert {f"{batch.blocks[block]}.{row}" for block, row in places(batch)} <= asked
            since = num_scored

    asyncio.run(run())


def test_a_failure_while_scoring_ends_the_run() -> None:
    class Failing(Scorer):
        async def score(self, batch: Batch) -> None:
            raise RuntimeError("a rank is gone")

    async def run() -> None:
        sampler = Gate([])
        for ordinal in range(4):  # the last of the step never comes
            sampler.gate(ordinal).set()
        await make_loop(sampler, Failing(sampler.events)).run(Keeper())

    with pytest.raises(RuntimeError, match="a rank is gone"):
        asyncio.run(asyncio.wait_for(run(), 20))
