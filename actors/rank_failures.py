"""Why a group of ranks failed, from what the calls to its ranks raised."""

import asyncio
from collections.abc import Sequence
from typing import Any

from ray.exceptions import ObjectLostError, OutOfMemoryError, RayActorError, RayTaskError

from actors.store import FULL, HOW_TO_MEND

Calls = Sequence[asyncio.Future[Any]]  # one a rank


def errors_by_rank(calls: Calls) -> dict[int, BaseException]:
    """What failed so far, by rank."""
    return {rank: error for rank, call in enumerate(calls) if call.done() and (error := call.exception())}


def is_hang(calls: Calls) -> bool:
    """Whether a rank kept its peers waiting in a collective and lives; one that died is no riddle."""
    errors = errors_by_rank(calls).values()
    return any(_is_timeout(error) for error in errors) and not any(isinstance(e, RayActorError) for e in errors)


def _is_timeout(error: BaseException) -> bool:
    return "timed out" in str(error).lower()


def _is_cut_off(error: BaseException) -> bool:
    """Whether a peer hung up in a collective. Ray may know only half a minute later that its node is gone."""
    text = str(error).lower()
    return any(sign in text for sign in ("connection closed by peer", "connection reset by peer", "broken pipe"))


def is_loss(calls: Calls) -> bool:
    """Whether a process died, kept its peers waiting in a collective, or found its samples gone with their node; not
    when memory ran out, as it would again."""
    errors = errors_by_rank(calls).values()
    if any(isinstance(error, OutOfMemoryError) for error in errors):
        return False
    return any(isinstance(e, RayActorError | ObjectLostError) or _is_timeout(e) or _is_cut_off(e) for e in errors)


def describe_failure(title: str, method: str, calls: Calls, tokens_per_micro_batch: int) -> str:
    """A rank that died is the cause of what its peers complain about. A kernel that kills for memory says no more."""
    errors = errors_by_rank(calls)
    died = [rank for rank, error in errors.items() if isinstance(error, RayActorError | OutOfMemoryError)]
    rank = died[0] if died else min(errors)
    error = errors[rank]
    cause = error.cause if isinstance(error, RayTaskError) else error
    what = f"{type(cause).__name__}: {_first_line(cause)}"
    if isinstance(cause, FULL):
        what = HOW_TO_MEND
    if died:
        what = (
            f"its process died; if it was killed for want of memory, set trainer.tokens_per_micro_batch="
            f"{tokens_per_micro_batch // 2} (now {tokens_per_micro_batch})"
        )
    return f"{title} rank {rank} of {len(calls)} failed in {method}: {what}"


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else "no message"
