"""The manifest of a checkpoint: every file with its size and checksum, and who vouches for them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trainers.signature import is_ours, key_place, sign

SCHEMA_VERSION = 2
MANIFEST = "manifest.json"
DIGEST = "digest"  # the manifest's key for the SHA-256 of all its others
SIGNATURE = "signature"  # and for the HMAC of these by the user who wrote it


class CheckpointError(ValueError):
    """A checkpoint that may not be used. The message names the file and what is wrong with it."""


class Untrusted(CheckpointError):
    """A checkpoint that may be whole, but this user didn't write it, and its shards can run code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """What a file must be."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """By whom a checkpoint's shards were written: see Manifest."""

    world_size: int
    config_digest: str
    own_ranks: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a checkpoint holds, and for whom.

    `world_size`: ranks of the policy. `own_ranks`: of each other model that has ranks of its own.
    """

    schema_version: int
    step: int
    world_size: int
    config_digest: str
    created: str
    files: Mapping[str, FileEntry]
    own_ranks: Mapping[str, int] = field(default_factory=dict)


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write it, signed by this user."""
    content = asdict(manifest)
    sealed = {**content, DIGEST: _digest(content), SIGNATURE: sign(_plain(content))}
    path.write_text(json.dumps(sealed, indent=1) + "\n", encoding="utf-8")


def read_manifest(path: Path, *, on_trust: bool = False) -> Manifest:
    """CheckpointError where it was changed; Untrusted where this user didn't sign it, unless it is taken on trust."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = content["schema_version"]
        if version != SCHEMA_VERSION:
            raise CheckpointError(f"{path}: schema_version={version}; this version of wutong reads {SCHEMA_VERSION}")
        signature = str(content.pop(SIGNATURE, ""))
        if content.pop(DIGEST) != _digest(content):
            raise CheckpointError(f"{path}: its own digest does not fit it; the file was changed")
        if not on_trust and not is_ours(_plain(content), signature):
            raise Untrusted(_no_signature(path, signature))
        files = {name: FileEntry(**entry) for name, entry in content.pop("files").items()}
        return Manifest(**content, files=files)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: not a manifest ({error})") from error


def _no_signature(path: Path, signature: str) -> str:
    what = f"not signed with your key ({key_place()})" if signature else "not signed"
    return (
        f"{path}: {what}, so it may come from elsewhere, and shards can run code when they are loaded; "
        "if you trust whoever wrote them, add --trust-checkpoint"
    )


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(_plain(content)).hexdigest()


def _plain(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True).encode()
