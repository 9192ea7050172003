"""The signature of what this user wrote: an HMAC with a key that stands outside of every run's folder.

Whoever may write into a folder of checkpoints can give any file a checksum that fits; a signature, only who has
the key.
"""

import hashlib
import hmac
import os
import secrets
from pathlib import Path
from typing import Final

KEY_VARIABLE: Final = "WUTONG_CHECKPOINT_KEY"
_LEAST_CHARACTERS: Final = 32
_OTHERS: Final = 0o077


def sign(content: bytes) -> str:
    """The signature of `content` with this user's key, which is made where there is none yet."""
    return hmac.new(own_key(), content, hashlib.sha256).hexdigest()


def is_ours(content: bytes, signature: str) -> bool:
    """Whether this user signed `content`."""
    return hmac.compare_digest(sign(content).encode(), signature.encode())


def own_key() -> bytes:
    """The key of WUTONG_CHECKPOINT_KEY, else of this user's file, else a new one in that file, mode 0600.

    ValueError where it is too short to be a secret, other users can read the file, or none can be kept.
    """
    given = os.environ.get(KEY_VARIABLE)
    return _proven(_read() if given is None else given, key_place()).encode()


def key_place() -> str:
    """Where the key stands, as people know it."""
    return str(_path()) if KEY_VARIABLE not in os.environ else KEY_VARIABLE


def _path() -> Path:
    configured = os.environ.get("XDG_CONFIG_HOME")
    return (Path(configured) if configured else Path.home() / ".config") / "wutong" / "checkpoint.key"


def _read() -> str:
    path = _path()
    try:
        if not path.exists():
            _make(path)
        if path.stat().st_mode & _OTHERS:
            raise ValueError(
                f"{path}: other users can read this key, and may have signed with it; remove it, and resume once "
                "with --trust-checkpoint"
            )
        return path.read_text().strip()
    except OSError as error:
        raise ValueError(
            f"{error.filename or path}: no key to sign checkpoints with can be kept there ({error.strerror}); "
            f"set {KEY_VARIABLE} to a secret of {_LEAST_CHARACTERS} characters or more"
        ) from None


def _make(path: Path) -> None:
    """Whole or not at all, and once: of several processes that make it, all go on with the first one's."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32) + "\n")
        path.hardlink_to(draft)
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def _proven(key: str, place: str) -> str:
    if len(key) < _LEAST_CHARACTERS:
        raise ValueError(
            f"{place}: a key of {len(key)} characters; want {_LEAST_CHARACTERS} or more, such as "
            "`openssl rand -hex 32` prints"
        )
    return key
