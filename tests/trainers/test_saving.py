"""When checkpoints come about beside the training, and what failed ones do to it."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from configs.schema import CheckpointConfig
from tests.small_disk import needs_mount, small_disk
from trainers import checkpoint
from trainers.checkpoint import Written
from trainers.saving import Saver, Snapshot, state_snapshot


class Learner:
    """Its models are `size` bytes."""

    def __init__(self, size: int = 10) -> None:
        self.size = size
        self.saved = 0

    async def save(self, draft: Path) -> Written:
        (draft / "policy").mkdir()
        (draft / "policy" / "rank_0.pt").write_bytes(bytes(self.size))
        self.saved += 1
        return Written(world_size=1, config_digest="d")


def make_saver(
    folder: Path, learner: Learner, snapshot: Callable[[int], Snapshot] | None = None, **config: int
) -> Saver:
    return Saver(
        CheckpointConfig.model_validate({"every_steps": 1, **config}),
        learner=learner,
        folder=folder,
        snapshot=snapshot or (lambda step: state_snapshot({"step": step})),
    )


def steps(folder: Path) -> list[int]:
    return [checkpoint.verify(path).step for path in checkpoint.all_checkpoints(folder)]


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_training_waits_for_the_models_alone_and_the_rest_is_done_beside_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        gate, learner = asyncio.Event(), Learner()

        def held_up(step: int) -> Snapshot:
            async def write(draft: Path) -> None:
                await gate.wait()
                checkpoint.write_state(draft, {"step": step})

            return write

        saver = make_saver(tmp_path, learner, held_up)
        await saver.after_step(1)
        saver.recorded(1)
        assert learner.saved == 1 and steps(tmp_path) == []
        second = asyncio.create_task(saver.after_step(2))
        await asyncio.sleep(0.01)
        assert learner.saved == 1, "one save at a time"
        gate.set()
        await second
        assert learner.saved == 2 and steps(tmp_path) == [1]
        saver.recorded(2)
        await saver.close()
        assert steps(tmp_path) == [1, 2]

    asyncio.run(scenario())


def test_a_checkpoint_is_not_complete_before_its_step_is_recorded(tmp_path: Path) -> None:
    async def scenario() -> None:
        saver = make_saver(tmp_path, Learner())
        await saver.after_step(1)
        await saver.close()

    asyncio.run(scenario())
    assert list(tmp_path.iterdir()) == [], "the step would be missing in the metrics for ever"


def test_the_last_step_is_saved_and_only_once(tmp_path: Path) -> None:
    async def scenario() -> int:
        learner = Learner()
        saver = make_saver(tmp_path, learner, every_steps=2)
        for step in (1, 2):
            await saver.after_step(step)
            saver.recorded(step)
        await saver.save(2)
        assert steps(tmp_path) == [2] and learner.saved == 1
        await saver.save(3)
        assert steps(tmp_path) == [2, 3]
        return learner.saved

    assert asyncio.run(scenario()) == 2


@needs_mount
def test_a_disk_that_fills_while_a_checkpoint_is_completed_fails_it_and_leaves_the_older_ones(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After the models are written there is no room left for what goes beside them."""

    async def scenario(disk: Path) -> None:
        learner = Learner()
        saver = make_saver(disk, learner, max_failed_saves=2)
        await saver.after_step(1)
        saver.recorded(1)
        await saver.close()
        learner.size = shutil.disk_usage(disk).free
        await saver.after_step(2)  # fails in the background: it goes on
        saver.recorded(2)
        await saver.close()
        assert "checkpoint of step 2 was not written ([Errno 28]" in caplog.text
        assert names(disk) == ["step_000001"] and steps(disk) == [1]
        await saver.after_step(3)
        saver.recorded(3)
        await saver.close()
        with pytest.raises(OSError, match="No space left"):
            await saver.after_step(4)
        learner.size = 10

    with small_disk(tmp_path / "small") as disk:
        asyncio.run(scenario(disk))


@needs_mount
def test_only_failures_in_a_row_count(tmp_path: Path) -> None:
    async def scenario(disk: Path) -> None:
        learner = Learner()
        saver = make_saver(disk, learner, max_failed_saves=2, keep_last=1)
        for step in range(1, 7):
            learner.size = 2**21 if step % 2 else 10
            await saver.after_step(step)
            saver.recorded(step)
        await saver.close()
        assert steps(disk) == [6]

    with small_disk(tmp_path / "small") as disk:
        asyncio.run(scenario(disk))


@needs_mount
def test_a_last_save_that_fails_ends_in_an_error(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small") as disk:
        saver = make_saver(disk, Learner(2**21))
        with pytest.raises(OSError, match="No space left"):
            asyncio.run(saver.save(1))
        assert list(disk.iterdir()) == []
