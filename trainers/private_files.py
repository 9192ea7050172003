"""Who may read what a run writes: its user, and its user's group."""

import contextlib
import os
from collections.abc import Iterator

_OTHERS_AND_WRITING = 0o027


def keep_files_private() -> int:
    """From here on this process makes files of mode 0640 at most, folders of 0750; the umask that was before."""
    earlier = os.umask(_OTHERS_AND_WRITING)
    os.umask(earlier | _OTHERS_AND_WRITING)  # a stricter one stays
    return earlier


@contextlib.contextmanager
def private_files() -> Iterator[None]:
    """`keep_files_private` for as long as it lasts."""
    earlier = keep_files_private()
    try:
        yield
    finally:
        os.umask(earlier)
