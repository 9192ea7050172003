"""Promise 5: a pickle in a checkpoint is loaded only if this user wrote it, or says that its writer is trusted."""

import json
import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from trainers import checkpoint, signature
from trainers.checkpoint import CheckpointError, Untrusted, Written

ROOT = Path(__file__).parents[2]


class Marker:
    """Leaves a file behind wherever it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


def write(root: Path, step: int = 1) -> Path:
    folder = checkpoint.folder_of(root, step)
    draft = checkpoint.begin(folder)
    (draft / "policy").mkdir()
    torch.save({"weights": torch.zeros(2)}, draft / "policy" / "mp_rank_00_model_states.pt")
    checkpoint.write_state(draft, {"step": step})
    checkpoint.commit(draft, folder, Written(world_size=1, config_digest=""))
    return folder


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A whole checkpoint with code in a shard, which somebody with another key wrote."""
    own = os.environ["WUTONG_CHECKPOINT_KEY"]
    monkeypatch.setenv("WUTONG_CHECKPOINT_KEY", "f" * 64)
    folder = checkpoint.folder_of(tmp_path / "checkpoints", 1)
    draft = checkpoint.begin(folder)
    torch.save(Marker(tmp_path / "marker"), draft / "shard.pt")
    checkpoint.commit(draft, folder, Written(world_size=1, config_digest=""))
    monkeypatch.setenv("WUTONG_CHECKPOINT_KEY", own)
    return folder


def test_a_checkpoint_of_ones_own_just_loads(tmp_path: Path) -> None:
    folder = write(tmp_path)
    assert checkpoint.verify(folder).step == 1
    assert checkpoint.latest_valid(tmp_path) == folder


def test_a_shard_with_code_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    folder = write(tmp_path)
    torch.save(Marker(tmp_path / "marker"), folder / "policy" / "mp_rank_00_model_states.pt")
    with pytest.raises(CheckpointError, match=r"mp_rank_00_model_states\.pt: .* bytes, the manifest says"):
        checkpoint.verify(folder)


def test_a_manifest_with_checksums_that_fit_does_not_make_it_ours(theirs: Path) -> None:
    """Nor does the key's absence from their manifest, nor a signature taken from another checkpoint of ours."""
    path = theirs / "manifest.json"
    foreign, own = json.loads(path.read_text()), write(theirs.parent, 7)
    borrowed = json.loads((own / "manifest.json").read_text())["signature"]
    for content, what in (
        (foreign, r"not signed with your key \(WUTONG_CHECKPOINT_KEY\)"),
        (foreign | {"signature": borrowed}, r"not signed with your key"),
        ({name: value for name, value in foreign.items() if name != "signature"}, "not signed, so"),
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(Untrusted, match=f"step_000001/manifest.json: {what}.*add --trust-checkpoint$"):
            checkpoint.verify(theirs)


def test_it_is_not_passed_over_in_silence(theirs: Path) -> None:
    write(theirs.parent, 0)
    with pytest.raises(Untrusted):
        checkpoint.latest_valid(theirs.parent)


def test_what_is_taken_on_trust_is_ones_own_from_then_on(theirs: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert checkpoint.latest_valid(theirs.parent, on_trust=True) == theirs
    with caplog.at_level(logging.WARNING):
        checkpoint.trust(theirs)
        checkpoint.trust(theirs)
    assert caplog.messages == [f"{theirs}: taken on trust, and signed with your key now"]
    assert checkpoint.verify(theirs).step == 1
    assert [path.name for path in theirs.parent.iterdir()] == [theirs.name]


def test_trust_mends_no_damage(theirs: Path) -> None:
    (theirs / "shard.pt").write_bytes(b"changed")
    with pytest.raises(CheckpointError, match=r"shard\.pt: 7 bytes, the manifest says"):
        checkpoint.trust(theirs)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's configuration folder without a key."""
    monkeypatch.delenv("WUTONG_CHECKPOINT_KEY")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_the_key_is_made_once_for_its_owner_alone(home: Path) -> None:
    script = "from trainers.signature import own_key; print(own_key().decode())"
    started = [
        subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    keys = {process.communicate(timeout=60)[0].strip() for process in started}
    assert keys == {signature.own_key().decode()}
    path = home / "wutong" / "checkpoint.key"
    assert len(path.read_text().strip()) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert list(path.parent.iterdir()) == [path]


def test_a_key_that_others_can_read_proves_nothing(home: Path) -> None:
    signature.own_key()
    path = home / "wutong" / "checkpoint.key"
    path.chmod(0o640)
    with pytest.raises(ValueError, match=r"checkpoint\.key: other users can read this key"):
        signature.own_key()


def test_a_key_that_cannot_be_kept_or_is_none_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.write_text("no folder")
    with pytest.raises(
        ValueError, match=r"no key to sign checkpoints with can be kept there .*set WUTONG_CHECKPOINT_KEY"
    ):
        signature.own_key()
    monkeypatch.setenv("WUTONG_CHECKPOINT_KEY", "short")
    with pytest.raises(ValueError, match=r"^WUTONG_CHECKPOINT_KEY: a key of 5 characters; want 32 or more"):
        signature.own_key()
