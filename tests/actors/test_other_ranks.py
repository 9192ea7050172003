"""A checkpoint that another number of ranks wrote: the same weights and moments, dealt anew."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.actors.learner_cases import make_batch, make_spec, published, running
from trainers.checkpoint import CheckpointError
from trainers.saving import save_checkpoint, state_snapshot

pytestmark = pytest.mark.usefixtures("cluster")

MEASURED = ("policy/loss", "optimizer/grad_norm", "optimizer/learning_rate", "policy/entropy")


@pytest.mark.parametrize(
    ("stage", "dtype", "before", "after"), [(1, "float32", 2, 1), (3, "bfloat16", 2, 1), (0, "float32", 1, 2)]
)
def test_other_ranks_go_on_with_the_same_weights_and_moments(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, stage: int, dtype: str, before: int, after: int
) -> None:
    folder = tmp_path / "checkpoints" / "step_000002"

    def spec(num_ranks: int) -> Any:
        return make_spec(tmp_path, zero_stage=stage, num_ranks=num_ranks, dtype=dtype)

    def batches(seeds: range, num_ranks: int) -> list[Any]:
        return [make_batch(seed, num_ranks=num_ranks, num_mini_batches=2) for seed in seeds]

    async def straight() -> tuple[Any, list[Any]]:
        async with running(spec(before)) as group:
            for batch in batches(range(2), before):
                await group.update(batch)
            await save_checkpoint(group, folder, state_snapshot({"cursor": 7}))
            return await published(group), [await group.update(batch) for batch in batches(range(2, 4), before)]

    async def resumed() -> tuple[Any, list[Any]]:
        async with running(spec(after)) as group:
            assert await group.load(folder) == {"cursor": 7}
            again = folder.with_name("step_000003")
            await save_checkpoint(group, again, state_snapshot({"cursor": 8}))
            assert await group.load(again) == {"cursor": 8}, "what the new ranks save is theirs"
            return await published(group), [await group.update(batch) for batch in batches(range(2, 4), after)]

    expected_weights, expected = asyncio.run(straight())
    with caplog.at_level(logging.WARNING):
        weights, found = asyncio.run(resumed())
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected_weights.items())
    tolerance = 1e-4 if dtype == "float32" else 0.02
    for values, others in zip(expected, found, strict=True):
        for name in MEASURED:
            assert others[name] == pytest.approx(values[name], rel=tolerance), name
    assert f"written by {before} ranks of the trainer; converted for {after}" in caplog.text
    left = sorted(path.name for path in folder.parent.iterdir())
    assert left == ["step_000002", "step_000003"], "nothing is left of the conversion"


def test_a_damaged_shard_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    """A shard is a pickle: what is planted in one would run as soon as it is read."""
    folder = tmp_path / "checkpoints" / "step_000001"

    async def written() -> None:
        async with running(make_spec(tmp_path, zero_stage=1, num_ranks=1)) as group:
            await save_checkpoint(group, folder, state_snapshot({}))
            shard = next(folder.rglob("*optim_states.pt"))
            shard.write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "marker").encode() + b"'\ntR.")
            with pytest.raises(CheckpointError, match=shard.name):
                await group.load(folder)

    asyncio.run(written())
    assert not (tmp_path / "marker").exists()
