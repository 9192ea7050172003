"""The learner on real Ray and real DeepSpeed, against a single process without either."""

import asyncio
import math
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.rank import NICENESS
from actors.ranks import RanksLost, TrainerGroupError
from actors.trainer import TrainerGroup
from configs.schema import CheckpointConfig
from experience.records import Batch
from tests.actors.learner_cases import (
    cross_entropy_alone,
    make_batch,
    make_spec,
    policy_objective,
    published,
    running,
    train_alone,
)
from tests.small_disk import needs_mount, small_disk
from trainers import checkpoint
from trainers.checkpoint import CheckpointError
from trainers.learner import LearnerSpec
from trainers.saving import Saver, save_checkpoint, state_snapshot
from trainers.supervised import SupervisedObjective

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> LearnerSpec:
    return make_spec(tmp_path_factory.mktemp("learner"), zero_stage=1, num_ranks=2)


@pytest.fixture(scope="module")
def group(spec: LearnerSpec, cluster: None) -> Iterator[TrainerGroup]:
    """Two ranks that several tests train on; none may count on the weights they start from."""
    started = asyncio.run(TrainerGroup.start(spec))
    yield started
    started.close()


def test_a_rank_on_a_cpu_leaves_the_cores_to_engines_first(group: TrainerGroup) -> None:
    niceness: Any = ray.remote(num_cpus=0)(lambda: os.nice(0))
    usual = ray.get(niceness.remote())
    pids = asyncio.run(group._call("pid", [()] * len(group)))
    assert [psutil.Process(pid).nice() for pid in pids] == [min(usual + NICENESS, 19)] * 2


async def learn(spec: LearnerSpec, batches: list[Batch], export: Path) -> list[Any]:
    async with running(spec) as group:
        metrics = [await group.update(batch) for batch in batches]
        await group.export(export)
    return metrics


def exported(folder: Path) -> dict[str, torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return {name: value.detach() for name, value in model.named_parameters()}


def largest_difference(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    assert left.keys() == right.keys()
    return max(float((left[name] - right[name]).abs().max()) for name in left)


def poisoned(batch: Batch, rank: int, advantage: float) -> Batch:
    """The batch with this advantage for one item of `rank`."""
    (mini_batch,) = batch.mini_batches
    (first, *items), *micro_batches = mini_batch.ranks[rank]
    bad = ((replace(first, advantage=advantage), *items), *micro_batches)
    ranks = tuple(bad if index == rank else own for index, own in enumerate(mini_batch.ranks))
    return replace(batch, mini_batches=(replace(mini_batch, ranks=ranks),))


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_ranks_train_like_one_process(tmp_path: Path, stage: int) -> None:
    spec = make_spec(tmp_path, zero_stage=stage, num_ranks=2)
    batches = [make_batch(seed, num_ranks=2) for seed in range(3)]
    metrics = asyncio.run(learn(spec, batches, tmp_path / "export"))
    start, _ = train_alone(spec, [])
    expected, norms = train_alone(spec, batches)
    assert [values["optimizer/grad_norm"] for values in metrics] == pytest.approx(norms, rel=1e-6)
    trained = exported(tmp_path / "export")
    assert largest_difference(start, expected) > 1e-2
    assert largest_difference(trained, expected) < 1.2e-7  # the last bit of a weight near 1


def test_two_ranks_that_share_all_tokens_train_like_one_process(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, zero_stage=3, num_ranks=2, sequence_parallel_size=2)
    batches = [make_batch(seed, num_ranks=1) for seed in range(2)]
    metrics = asyncio.run(learn(spec, batches, tmp_path / "export"))
    expected, norms = train_alone(spec, batches)
    assert [values["optimizer/grad_norm"] for values in metrics] == pytest.approx(norms, rel=1e-6)
    assert largest_difference(exported(tmp_path / "export"), expected) < 1.2e-7


def test_bfloat16_follows_float32(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, zero_stage=2, num_ranks=2, dtype="bfloat16")
    batches = [make_batch(seed, num_ranks=2) for seed in range(3)]
    metrics = asyncio.run(learn(spec, batches, tmp_path / "export"))
    _, norms = train_alone(spec, batches)
    assert [values["optimizer/grad_norm"] for values in metrics] == pytest.approx(norms, rel=0.02)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "export")
    assert saved.dtype == torch.bfloat16


@pytest.mark.parametrize(("stage", "dtype"), [(1, "float32"), (3, "bfloat16")])
def test_a_resumed_learner_goes_on_bit_for_bit(tmp_path: Path, stage: int, dtype: str) -> None:
    spec = make_spec(tmp_path, zero_stage=stage, num_ranks=2, dtype=dtype)
    batches = [make_batch(seed, num_ranks=2, num_mini_batches=2) for seed in range(4)]
    folder = tmp_path / "checkpoints" / "step_000002"

    async def straight() -> tuple[list[Any], dict[str, torch.Tensor]]:
        async with running(spec) as group:
            for batch in batches[:2]:
                await group.update(batch)
            await save_checkpoint(group, folder, state_snapshot({"cursor": 7}))
            return [await group.update(batch) for batch in batches[2:]], await published(group)

    async def resumed() -> tuple[list[Any], dict[str, torch.Tensor]]:
        async with running(replace(spec, seed=99)) as group:
            assert await group.load(folder) == {"cursor": 7}
            return [await group.update(batch) for batch in batches[2:]], await published(group)

    metrics, expected = asyncio.run(straight())
    again, found = asyncio.run(resumed())
    for name in ("policy/loss", "optimizer/grad_norm", "optimizer/learning_rate"):
        assert [values[name] for values in again] == [values[name] for values in metrics]
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    # The checkpoint proves its files before a pickle is opened.
    shard = next(path for path in folder.rglob("*optim_states.pt"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=shard.name):
        asyncio.run(TrainerGroup(spec, [None, None], []).load(folder))


@pytest.mark.parametrize("advantage", [math.nan, math.inf, 1e38, 3e38], ids=str)  # of the last two, sums overflow
def test_a_bad_gradient_on_one_rank_skips_the_step_on_all(group: TrainerGroup, advantage: float) -> None:
    batch = make_batch(5, num_ranks=2)

    async def train() -> tuple[Any, Any, Any, bool]:
        before = await published(group)
        bad = await group.update(poisoned(batch, 1, advantage))
        after = await published(group)
        good = await group.update(batch)
        return bad, good, await published(group), all(torch.equal(before[name], after[name]) for name in before)

    bad, good, _, is_unchanged = asyncio.run(train())
    assert bad["optimizer/skipped_steps"] == 1
    assert is_unchanged
    assert good["optimizer/skipped_steps"] == 0
    assert math.isfinite(good["optimizer/grad_norm"])


def test_several_updates_on_a_batch_measure_ratios_from_where_it_began(group: TrainerGroup) -> None:
    batch = make_batch(6, num_ranks=2, num_mini_batches=2)
    twice = replace(batch, epochs=2)
    single, several = asyncio.run(group.update(make_batch(6, num_ranks=2))), asyncio.run(group.update(twice))
    assert single["policy/ratio_max"] == 1
    assert single["policy/kl_old"] == 0
    assert several["policy/ratio_max"] > 1
    assert several["policy/kl_old"] > 0


def test_what_is_published_is_what_is_exported(group: TrainerGroup, tmp_path: Path) -> None:
    async def both() -> dict[str, torch.Tensor]:
        await group.export(tmp_path / "export")
        return await published(group)

    found = asyncio.run(both())
    expected = exported(tmp_path / "export")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "export")
    assert tokenizer.decode(tokenizer("1+2").input_ids) == "1+2"
    assert not list(tmp_path.glob(".*"))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@needs_mount
def test_a_full_disk_fails_the_save_and_not_the_training(
    group: TrainerGroup, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The disk has room for one checkpoint and a half; the second is written once it was emptied."""
    config = CheckpointConfig(every_steps=1, keep_last=2, max_failed_saves=2)

    async def train(disk: Path) -> list[list[str]]:
        saver = Saver(config, learner=group, folder=disk, snapshot=lambda step: state_snapshot({"step": step}))
        found = []
        for step in range(1, 4):
            if step == 3:
                (disk / "ballast").unlink()
            metrics = await group.update(make_batch(step, num_ranks=2))
            assert metrics["optimizer/skipped_steps"] == 0
            await saver.after_step(step)
            saver.recorded(step)
            await saver.close()
            found.append(sorted(names(disk) - {"ballast"}))
            if step == 1:
                (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - 2**20))
        return found

    with small_disk(tmp_path / "small", "64m") as disk:
        found = asyncio.run(train(disk))
        first, third = checkpoint.folder_of(disk, 1), checkpoint.folder_of(disk, 3)
        assert found == [[first.name], [first.name], [first.name, third.name]]
        assert [checkpoint.verify(folder).step for folder in (first, third)] == [1, 3]
    assert re.search(
        r"checkpoint of step 2 was not written .*a checkpoint needs \d+ MiB and 1 MiB are free", caplog.text
    )


def test_supervised_loss_is_the_mean_over_the_counted_tokens_of_all_ranks(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, SupervisedObjective(), zero_stage=2, num_ranks=2)
    batch = make_batch(9, num_ranks=2)

    async def train() -> tuple[Any, list[Any]]:
        async with running(spec) as group:
            await group.export(tmp_path / "start")
            held_out = await group.evaluate(batch)
            return held_out, [await group.update(batch) for _ in range(3)]

    held_out, metrics = asyncio.run(train())
    expected = cross_entropy_alone(tmp_path / "start", batch)
    assert held_out["eval/loss"] == pytest.approx(expected, rel=1e-5)
    assert held_out["eval/perplexity"] == pytest.approx(math.exp(expected), rel=1e-4)
    losses = [values["supervised/loss"] for values in metrics]
    assert losses[0] == pytest.approx(expected, rel=1e-5)
    assert losses[0] > losses[1] > losses[2]
    assert metrics[0]["supervised/perplexity"] == pytest.approx(math.exp(losses[0]))


@pytest.mark.parametrize("stage", [1, 3])
def test_the_reference_stays_where_the_policy_began(tmp_path: Path, stage: int) -> None:
    objective = policy_objective(kl_coef=0.1, kl_estimator="k2")
    spec = make_spec(tmp_path, objective, zero_stage=stage, num_ranks=2)
    batches = [make_batch(seed, num_ranks=2) for seed in range(3)]
    metrics = asyncio.run(learn(spec, batches, tmp_path / "export"))
    divergences = [values["policy/kl_ref"] for values in metrics]
    assert divergences[0] == 0
    assert 0 < divergences[1] < divergences[2]


def test_a_killed_rank_ends_the_group_and_is_named(spec: LearnerSpec) -> None:
    async def train() -> tuple[float, list[int]]:
        async with running(spec) as group:
            pids = await asyncio.gather(*(rank.pid.remote() for rank in group._ranks))
            os.kill(pids[1], signal.SIGKILL)
            killed = time.monotonic()
            with pytest.raises(RanksLost, match="trainer rank 1 of 2 failed in update: its process died"):
                await group.update(make_batch(1, num_ranks=2))
            seconds = time.monotonic() - killed
            with pytest.raises(TrainerGroupError, match="trainer rank 1 of 2"):
                await group.publish(1)
            return seconds, pids

    seconds, pids = asyncio.run(train())
    assert seconds < 30
    assert_gone(pids)


def test_a_rank_that_hangs_is_noticed_within_the_collective_timeout(spec: LearnerSpec) -> None:
    impatient = replace(spec, trainer=spec.trainer.model_copy(update={"collective_timeout_seconds": 5}))

    async def train() -> tuple[float, list[int]]:
        async with running(impatient) as group:
            pids = await asyncio.gather(*(rank.pid.remote() for rank in group._ranks))
            os.kill(pids[1], signal.SIGSTOP)
            stopped = time.monotonic()
            with pytest.raises(RanksLost, match=r"trainer rank 0 of 2 failed in update: .*[Tt]imed out"):
                await group.update(make_batch(1, num_ranks=2))
            return time.monotonic() - stopped, pids

    seconds, pids = asyncio.run(train())
    assert seconds < 30
    assert_gone(pids)


def test_an_error_on_one_rank_is_told_in_one_line(group: TrainerGroup) -> None:
    (mini_batch,) = make_batch(2, num_ranks=2).mini_batches
    blocks = make_batch(3, num_ranks=2).blocks
    with pytest.raises(TrainerGroupError) as caught:
        asyncio.run(group.update(Batch(blocks=blocks, mini_batches=(mini_batch,))))
    assert "failed in update: ValueError: block" in str(caught.value)
    assert not isinstance(caught.value, RanksLost)
    assert "\n" not in str(caught.value)


def assert_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, f"processes {pids} outlive their group"
        time.sleep(0.1)
