"""A checkpoint's folder: written beside its place, sealed with a manifest, renamed into place, verified.

    checkpoints/step_000100/
        manifest.json       written last: every file with its size and SHA-256
        state.json          what the driver goes on from, and what was measured on held-out data at this step
        recipe.json         the resolved recipe, without secrets
        buffer/             groups that were sampled and scored, and wait to be trained on, where there are any
        rng/                random generators, one file a rank (critic_rank_0 ... where it has ranks of its own)
        policy/             DeepSpeed's shards; critic/ beside it, where there is one
        reference/          the reference's weights, where they do not stay those of model.path

A folder under its final name is complete; whatever a killed process left has a name that starts with a dot.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trainers.manifest import (
    MANIFEST,
    SCHEMA_VERSION,
    CheckpointError,
    FileEntry,
    Manifest,
    Untrusted,
    Written,
    read_manifest,
    write_manifest,
)

__all__ = ["CheckpointError", "Untrusted", "Written"]  # beside what is defined here

logger = logging.getLogger(__name__)

STATE = "state.json"
HELD_OUT = "held_out"  # the state's key for what was measured at its step, if anything was
BY_PROMPT = "held_out_by_prompt"  # that for the numbers of each prompt behind it, where they are known
PREFIX = "step_"
HASH_THREADS = 4


def folder_of(root: Path, step: int) -> Path:
    """Where the checkpoint of `step` stands."""
    return root / f"{PREFIX}{step:06d}"


def step_of(folder: Path) -> int:
    """The step that a checkpoint's name tells; ValueError for other names."""
    digits = folder.name.removeprefix(PREFIX)
    if digits == folder.name or not digits.isdecimal():
        raise ValueError(f"{folder}: not a checkpoint's name; expected {PREFIX}000100 or the like")
    return int(digits)


def begin(folder: Path) -> Path:
    """A new, empty folder beside `folder`, to be filled and then given to `commit` or `discard`."""
    step_of(folder)
    _remove_leftovers(folder.parent)
    draft = folder.with_name(f".{folder.name}.partial")
    draft.mkdir(parents=True, mode=0o750)
    return draft


def commit(draft: Path, folder: Path, written: Written) -> None:
    """Make a filled draft the checkpoint `folder`: whole, sealed and on disk."""
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        step=step_of(folder),
        world_size=written.world_size,
        own_ranks=written.own_ranks,
        config_digest=written.config_digest,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        files=_entries(draft, _files(draft)),
    )
    _seal(draft, manifest)
    _move_into_place(draft, folder)


def discard(draft: Path) -> None:
    """Drop a draft whose writing failed; older checkpoints are as they were."""
    shutil.rmtree(draft, ignore_errors=True)


def require_space(folder: Path, nbytes: int) -> None:
    """OSError unless the disk below `folder` has room for so many bytes: better before a save than half way."""
    free = shutil.disk_usage(folder).free
    if free < nbytes:
        raise OSError(
            errno.ENOSPC,
            f"a checkpoint needs {nbytes / 2**20:.0f} MiB and {free / 2**20:.0f} MiB are free",
            str(folder),
        )


def _seal(folder: Path, manifest: Manifest) -> None:
    path = folder / MANIFEST
    write_manifest(path, manifest)
    for file in [*_files(folder), path]:
        _flush(file)
    for directory in [*(p for p in folder.rglob("*") if p.is_dir()), folder]:
        _flush(directory)


def _move_into_place(draft: Path, folder: Path) -> None:
    """Rename; a checkpoint of the same step (a resumed run wrote it anew) makes way first."""
    replaced = folder.with_name(f".{folder.name}.replaced")
    if folder.exists():
        folder.rename(replaced)
    draft.rename(folder)
    _flush(folder.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def verify(folder: Path, *, on_trust: bool = False) -> Manifest:
    """The manifest of a checkpoint whose files are all there, as this user wrote them.

    CheckpointError names the first file that is missing, changed, or not listed; Untrusted where somebody else may
    have written them, unless they are taken on trust.
    """
    if folder.is_symlink():
        raise CheckpointError(f"{folder}: a symbolic link; checkpoints are plain folders")
    manifest = read_manifest(folder / MANIFEST, on_trust=on_trust)
    found = {str(path.relative_to(folder)) for path in _files(folder)}
    for name in sorted(manifest.files.keys() - found):
        raise CheckpointError(f"{folder / name}: missing; the manifest lists it")
    for name in sorted(found - manifest.files.keys()):
        raise CheckpointError(f"{folder / name}: not listed in the manifest; remove it if it is not yours")
    actual = _entries(folder, [folder / name for name in manifest.files])
    for name, expected in sorted(manifest.files.items()):
        if actual[name].size != expected.size:
            raise CheckpointError(f"{folder / name}: {actual[name].size} bytes, the manifest says {expected.size}")
        if actual[name].sha256 != expected.sha256:
            raise CheckpointError(f"{folder / name}: its SHA-256 is not the manifest's; the file was changed")
    return manifest


def trust(folder: Path) -> None:
    """Sign somebody else's checkpoint, if it is whole, so that it counts as this user's from here on."""
    with suppress(Untrusted):
        read_manifest(folder / MANIFEST)
        return
    manifest = verify(folder, on_trust=True)
    draft = folder.with_name(f".{MANIFEST}.{folder.name}")
    write_manifest(draft, manifest)
    _flush(draft)
    draft.replace(folder / MANIFEST)
    _flush(folder)
    logger.warning("%s: taken on trust, and signed with your key now", folder)


def check_ranks(folder: Path, manifest: Manifest, own_ranks: Mapping[str, int]) -> None:
    """CheckpointError unless the same models have ranks of their own as when it was written.

    Their number may be another; but a model can't be taken off the policy's ranks, or moved there.
    """
    for section in {**manifest.own_ranks, **own_ranks}:
        was, now = manifest.own_ranks.get(section, 0), own_ranks.get(section, 0)
        if bool(was) != bool(now):
            key = f"{section}.num_ranks"
            raise CheckpointError(
                f"{folder}: written by {was} ranks of the {section}'s own, and {key}={now}; set {key}={was}"
            )


@contextmanager
def scratch_beside(folder: Path, purpose: str) -> Iterator[Path]:
    """A folder beside a checkpoint, for what is made of it for this purpose; gone afterwards."""
    scratch = folder.with_name(f".{folder.name}.{purpose}.scratch")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(mode=0o750)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def all_checkpoints(root: Path) -> list[Path]:
    """Complete checkpoints below `root`, oldest first; unverified."""
    found = [path for path in root.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdecimal()]
    return sorted(found, key=step_of)


def latest_valid(root: Path, *, on_trust: bool = False) -> Path | None:
    """The newest checkpoint that passes `verify`; damaged ones are passed over with a warning.

    None when there is none at all; CheckpointError when there are some, but none can be used. Untrusted ones are not
    passed over: who put them there, and why, is to be asked first.
    """
    found = all_checkpoints(root)
    for folder in reversed(found):
        try:
            verify(folder, on_trust=on_trust)
            return folder
        except Untrusted:
            raise
        except CheckpointError as error:
            logger.warning("passing over a damaged checkpoint: %s", error)
    if found:
        raise CheckpointError(f"{root}: none of its {len(found)} checkpoints can be used (see the warnings above)")
    return None


def prune(root: Path, keep_last: int, best: Collection[Path] = ()) -> None:
    """Remove all but the newest `keep_last` checkpoints and the `best`, and what killed processes left."""
    assert keep_last >= 1
    _remove_leftovers(root)
    for folder in all_checkpoints(root)[:-keep_last]:
        if folder in best:
            continue
        # A half-removed checkpoint must not stand under a complete one's name.
        doomed = folder.with_name(f".{folder.name}.removed")
        folder.rename(doomed)
        shutil.rmtree(doomed)


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """The driver's state, as JSON."""
    (folder / STATE).write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")


def read_state(folder: Path) -> dict[str, Any]:
    """What `write_state` wrote."""
    return json.loads((folder / STATE).read_text(encoding="utf-8"))


def _remove_leftovers(root: Path) -> None:
    """Tidy what a killed process left; a complete checkpoint that had just made way gets its place back."""
    for path in root.glob(f".{PREFIX}*.replaced"):
        place = path.with_name(path.name.removeprefix(".").removesuffix(".replaced"))
        if not place.exists():
            path.rename(place)
    for ending in ("partial", "replaced", "removed", "scratch"):
        for path in root.glob(f".{PREFIX}*.{ending}"):
            shutil.rmtree(path)


def _files(folder: Path) -> list[Path]:
    """Every file but the manifest. A link could name a file outside, which the manifest can't vouch for."""
    paths = sorted(folder.rglob("*"))
    for path in paths:
        if path.is_symlink():
            raise CheckpointError(f"{path}: a symbolic link; checkpoints hold plain files only")
    return [path for path in paths if path.is_file() and path != folder / MANIFEST]


def _entries(folder: Path, paths: list[Path]) -> dict[str, FileEntry]:
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        return dict(zip((str(p.relative_to(folder)) for p in paths), pool.map(_entry, paths), strict=True))


def _entry(path: Path) -> FileEntry:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileEntry(size=path.stat().st_size, sha256=digest)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
