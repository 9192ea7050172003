"""Steps that go bad: how many in a row end a run, and what is left to look at."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from experience.records import Batch, TokenBlock
from tests.actors.learner_cases import make_batch
from tests.cluster.light_loops import make_loop
from tests.trainers.test_loop import Recorder, Sampler
from trainers.bad_steps import FACTS, TENSORS, BadSteps, TooManyBadSteps
from trainers.credit import Credit
from trainers.observer import Observer

GOOD, BAD = {"optimizer/skipped_steps": 0.0}, {"optimizer/skipped_steps": 1.0}
BATCH = make_batch(3, num_ranks=2)


def check(steps: BadSteps, outcomes: list[dict[str, float]]) -> None:
    for number, outcome in enumerate(outcomes, start=1):
        asyncio.run(steps.check(number, outcome, lambda: BATCH))


def test_so_many_bad_steps_in_a_row_are_skipped_and_no_more(tmp_path: Path) -> None:
    steps = BadSteps(max_bad_steps=2, folder=tmp_path)
    check(steps, [BAD, BAD, GOOD, BAD, BAD])
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(TooManyBadSteps) as ended:
        asyncio.run(steps.check(6, BAD, lambda: BATCH))
    assert str(ended.value) == (
        "the gradients of 3 steps in a row, up to step 6, were not finite (trainer.max_bad_steps=2); "
        f"weights are as before them; the last batch: {tmp_path}/bad_step_000006"
    )


@pytest.mark.parametrize("name", ["optimizer/skipped_steps", "critic/skipped_steps"])
def test_without_patience_the_first_one_ends_the_run_the_critics_too(tmp_path: Path, name: str) -> None:
    with pytest.raises(TooManyBadSteps):
        check(BadSteps(max_bad_steps=0, folder=tmp_path), [{name: 2.0}])


def test_the_batch_is_kept_with_its_tokens_items_and_prompts(tmp_path: Path) -> None:
    first, second = BATCH.blocks  # the second as a mixed-in one, which is no handle
    batch = replace(BATCH, blocks=("handle", second))

    async def read(handle: object) -> TokenBlock:
        assert handle == "handle"
        return first

    (tmp_path / "bad_step_000001").mkdir()  # of an earlier start
    with pytest.raises(TooManyBadSteps):
        steps = BadSteps(max_bad_steps=0, folder=tmp_path, read_block=read)
        asyncio.run(steps.check(1, BAD, lambda: batch, [{"id": 7}]))
    folder = tmp_path / "bad_step_000001"
    tensors = load_file(folder / TENSORS)
    for number, block in enumerate(BATCH.blocks):
        assert np.array_equal(tensors[f"block_{number}.tokens"], block.tokens)
        assert np.array_equal(tensors[f"block_{number}.response_mask"], block.response_mask)
    facts = json.loads((folder / FACTS).read_text())
    assert (facts["step"], facts["prompts"], facts["metrics"]) == (1, [{"id": 7}], BAD)
    ranks = facts["mini_batches"][0]["ranks"]
    advantages = [item["advantage"] for rank in ranks for micro in rank for item in micro]
    planned = BATCH.mini_batches[0].ranks
    assert advantages == [item.advantage for rank in planned for micro in rank for item in micro]


def test_the_loop_ends_with_the_step_that_is_one_too_many_and_publishes_nothing_of_it(tmp_path: Path) -> None:
    async def read(handle: object) -> TokenBlock:
        return BATCH.blocks[0]

    class Exploding(Recorder):
        async def update(self, batch: Batch) -> Mapping[str, float]:
            return {**await super().update(batch), **(BAD if len(self.batches) > 1 else GOOD)}

    class Watching(Observer):
        async def after_update(self, step: int, credit: Credit, learned: Mapping[str, float]) -> None:
            await steps.check(step, learned, lambda: credit.batch)

    steps = BadSteps(max_bad_steps=1, folder=tmp_path, read_block=read)
    events: list[str] = []
    loop = make_loop(steps=9, rollouts=Sampler(events), learner=Exploding(events))
    with pytest.raises(TooManyBadSteps, match="2 steps in a row, up to step 3,"):
        asyncio.run(loop.run(Watching()))
    assert events == ["load 0", "update", "load 1", "update", "load 2", "update"]
    assert [path.name for path in tmp_path.iterdir()] == ["bad_step_000003"]
