"""What actors are called in Ray's dashboard, its logs and `ray list actors`: by run and role."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from contextvars import ContextVar

_run: ContextVar[str] = ContextVar("_run", default="wutong")
_given: Counter[str] = Counter()


@contextlib.contextmanager
def naming(run: str) -> Iterator[None]:
    """Inside, and in tasks begun there, actors are named after this run."""
    token = _run.set(run)
    try:
        yield
    finally:
        _run.reset(token)


def actor_name(role: str) -> str:
    """A name that no actor of this process has had: `my-run/rollout-0`, for its successor `my-run/rollout-0#2`.

    Ray keeps the names of one driver apart from those of others, so runs of one name don't meet; but a name is free
    again only some time after its actor has ended.
    """
    name = f"{_run.get()}/{role}"
    _given[name] += 1
    return name if _given[name] == 1 else f"{name}#{_given[name]}"
