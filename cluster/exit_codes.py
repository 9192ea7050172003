"""What the exit code of a command says."""

from typing import Final

FAILED: Final = 1
WRONG_INPUT: Final = 2
STOPPED_RESUMABLE: Final = 75  # as EX_TEMPFAIL of sysexits.h: the same command with --resume goes on
