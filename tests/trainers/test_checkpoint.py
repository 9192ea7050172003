"""A checkpoint is whole and proven, or it is not used."""

import json
import logging
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from trainers import checkpoint
from trainers.checkpoint import CheckpointError
from trainers.rng import load_rng, save_rng

ROOT = Path(__file__).parents[2]


def write(root: Path, step: int, text: str = "weights") -> Path:
    folder = checkpoint.folder_of(root, step)
    draft = checkpoint.begin(folder)
    (draft / "zero").mkdir()
    (draft / "zero" / "rank_0.pt").write_text(text)
    (draft / "zero" / "rank_1.pt").write_text(text * 2)
    checkpoint.write_state(draft, {"step": step, "text": "é"})
    checkpoint.commit(draft, folder, checkpoint.Written(world_size=2, config_digest="abc"))
    return folder


def test_a_written_checkpoint_is_verified_and_read_back(tmp_path: Path) -> None:
    folder = write(tmp_path / "checkpoints", 100)
    manifest = checkpoint.verify(folder)
    assert folder.name == "step_000100"
    assert (manifest.step, manifest.world_size, manifest.config_digest) == (100, 2, "abc")
    assert sorted(manifest.files) == ["state.json", "zero/rank_0.pt", "zero/rank_1.pt"]
    assert manifest.files["zero/rank_1.pt"].size == len("weights") * 2
    assert checkpoint.read_state(folder) == {"step": 100, "text": "é"}


@pytest.mark.parametrize(
    ("own_ranks", "message"),
    [
        ({}, "written by 3 ranks of the critic's own, and critic.num_ranks=0; set critic.num_ranks=3"),
        ({"critic": 3, "reference": 1}, "written by 0 ranks of the reference's own, and reference.num_ranks=1"),
    ],
)
def test_a_model_with_ranks_of_its_own_stays_one(tmp_path: Path, own_ranks: dict[str, int], message: str) -> None:
    folder = checkpoint.folder_of(tmp_path, 3)
    written = checkpoint.Written(world_size=2, config_digest="", own_ranks={"critic": 3})
    checkpoint.commit(checkpoint.begin(folder), folder, written)
    manifest = checkpoint.verify(folder)
    for number in (3, 1):
        checkpoint.check_ranks(folder, manifest, own_ranks={"critic": number})
    with pytest.raises(CheckpointError, match=message):
        checkpoint.check_ranks(folder, manifest, own_ranks=own_ranks)


@pytest.mark.parametrize("name", ["state.json", "zero/rank_0.pt", "zero/rank_1.pt"])
def test_a_flipped_bit_in_any_file_is_noticed_and_the_file_named(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path, 1)
    flip_bit(folder / name, at=0.5)
    with pytest.raises(CheckpointError, match=name):
        checkpoint.verify(folder)


@pytest.mark.parametrize("at", [index / 20 for index in range(20)])
def test_a_flipped_bit_anywhere_in_the_manifest_is_noticed(tmp_path: Path, at: float) -> None:
    folder = write(tmp_path, 1)
    flip_bit(folder / "manifest.json", at)
    with pytest.raises(CheckpointError, match="step_000001"):
        checkpoint.verify(folder)


def flip_bit(path: Path, at: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * at)] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["state.json", "zero/rank_1.pt"])
def test_a_truncated_file_is_named_with_both_sizes(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path, 1)
    size = (folder / name).stat().st_size
    os.truncate(folder / name, 3)
    with pytest.raises(CheckpointError, match=f"{name}: 3 bytes, the manifest says {size}"):
        checkpoint.verify(folder)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path, 1)
    (folder / "zero" / "rank_1.pt").unlink()
    with pytest.raises(CheckpointError, match=r"rank_1\.pt: missing"):
        checkpoint.verify(folder)


def test_a_planted_shard_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, 1)
    (folder / "zero" / "rank_2.pt").write_text("planted")
    with pytest.raises(CheckpointError, match=r"rank_2\.pt: not listed"):
        checkpoint.verify(folder)


def test_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, 1)
    elsewhere = tmp_path / "elsewhere.pt"
    elsewhere.write_text("weights")
    (folder / "zero" / "rank_0.pt").unlink()
    (folder / "zero" / "rank_0.pt").symlink_to(elsewhere)
    with pytest.raises(CheckpointError, match=r"rank_0\.pt: a symbolic link"):
        checkpoint.verify(folder)


def test_a_manifest_of_another_schema_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, 1)
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99}))
    with pytest.raises(CheckpointError, match="schema_version=99"):
        checkpoint.verify(folder)


def test_the_newest_valid_checkpoint_is_found_past_a_damaged_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = write(tmp_path, 9), write(tmp_path, 10)
    (bad / "zero" / "rank_0.pt").write_text("weightz")
    with caplog.at_level(logging.WARNING):
        assert checkpoint.latest_valid(tmp_path) == good
    assert "step_000010/zero/rank_0.pt" in caplog.text


def test_no_checkpoint_at_all_is_no_error_but_only_damaged_ones_are(tmp_path: Path) -> None:
    assert checkpoint.latest_valid(tmp_path) is None
    (write(tmp_path, 1) / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="none of its 1 checkpoints"):
        checkpoint.latest_valid(tmp_path)


def test_prune_keeps_the_newest_by_step_not_by_name(tmp_path: Path) -> None:
    for step in (999_999, 1_000_000, 5):
        write(tmp_path, step)
    checkpoint.prune(tmp_path, keep_last=2)
    assert [checkpoint.step_of(folder) for folder in checkpoint.all_checkpoints(tmp_path)] == [999_999, 1_000_000]


def test_a_step_that_is_saved_again_replaces_the_old_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, 1, "old")
    folder = write(tmp_path, 1, "new")
    assert (folder / "zero" / "rank_0.pt").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["step_000001"]


def test_a_checkpoint_that_was_making_way_when_its_process_died_comes_back(tmp_path: Path) -> None:
    folder = write(tmp_path, 1, "old")
    folder.rename(tmp_path / ".step_000001.replaced")
    checkpoint.prune(tmp_path, keep_last=1)
    assert checkpoint.latest_valid(tmp_path) == folder


def test_a_discarded_draft_leaves_nothing(tmp_path: Path) -> None:
    old = write(tmp_path, 1)
    draft = checkpoint.begin(checkpoint.folder_of(tmp_path, 2))
    (draft / "half").write_text("half")
    checkpoint.discard(draft)
    assert list(tmp_path.iterdir()) == [old]


def test_a_disk_without_room_is_named_with_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"a checkpoint needs 1099511627776 MiB"):
        checkpoint.require_space(tmp_path, 2**60)


KILLED_WRITER = """
import os, sys
from pathlib import Path
from trainers import checkpoint

root, fatal_call = Path(sys.argv[1]), int(sys.argv[2])
calls = 0

def trace(event, args):
    # Every file that is opened, written out, renamed or made is a point at which a process may die.
    global calls
    if event in ("open", "os.rename", "os.mkdir", "shutil.rmtree", "os.remove") and str(root) in str(args[0]):
        calls += 1
        if calls == fatal_call:
            os._exit(9)

sys.addaudithook(trace)
folder = checkpoint.folder_of(root, 2)
draft = checkpoint.begin(folder)
for rank in range(4):
    (draft / f"rank_{rank}.pt").write_text("new")
checkpoint.write_state(draft, {"step": 2})
checkpoint.commit(draft, folder, checkpoint.Written(world_size=1, config_digest=""))
checkpoint.prune(root, 1)
"""


def test_a_writer_killed_at_any_point_leaves_a_valid_checkpoint(tmp_path: Path) -> None:
    codes = []
    for fatal_call in range(1, 100):
        root = tmp_path / str(fatal_call)
        write(root, 1)
        killed = subprocess.run(
            [sys.executable, "-c", KILLED_WRITER, str(root), str(fatal_call)], cwd=ROOT, check=False
        )
        codes.append(killed.returncode)
        latest = checkpoint.latest_valid(root)
        assert latest is not None
        assert checkpoint.read_state(latest)["step"] in (1, 2)
        checkpoint.prune(root, 2)
        assert all(path.name.startswith("step_") for path in root.iterdir())
        if killed.returncode == 0:
            break
    assert codes[-1] == 0
    assert codes.count(9) >= 20


def test_random_generators_go_on_where_they_were_saved(tmp_path: Path) -> None:
    def draw() -> tuple[float, float, float]:
        return random.gauss(0, 1), float(np.random.normal()), float(torch.rand(()))

    draw()  # python and numpy keep half of a pair of normal numbers back
    save_rng(tmp_path / "rng" / "rank_0.safetensors")
    expected = [draw() for _ in range(3)]
    load_rng(tmp_path / "rng" / "rank_0.safetensors")
    assert [draw() for _ in range(3)] == expected
