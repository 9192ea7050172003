"""How fast each rollout worker is, and which one is slower than the others.

An engine samples one token of every running sequence a step, so its seconds a step are what a sequence waits for a
token, whatever the number of sequences and their lengths: a worker with long responses is not taken for a slow one.
"""

import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from statistics import median

from actors.messages import Progress

_NEWEST_SHARE = 0.3  # of the running mean, for what a worker last reported
_SILENT_STEPS = 20  # a worker with work that tells of no step for so many is no better than a slow one
_SILENT_SECONDS = 6.0  # at least: reports come every two seconds
_HARVESTS_PER_SECOND = 200  # of all workers together, at most
_LONGEST_PAUSE_SECONDS = 0.5  # of one worker between two of its own, however many there are


class Pace:
    """What one worker did, of what it reports about itself."""

    def __init__(self) -> None:
        self.progress = Progress()
        self.step_seconds: float | None = None  # running mean; None: not known yet
        self.slowness = 1.0  # times as slow as the others; 1 unless it is slow
        self._moved_at = time.monotonic()

    def begin(self) -> None:
        """It is given work, or takes it up again."""
        self._moved_at = time.monotonic()

    def report(self, progress: Progress) -> None:
        """Its newest account; accounts may come late, and in any order."""
        steps = progress.num_steps - self.progress.num_steps
        if steps > 0:
            seconds = (progress.busy_seconds - self.progress.busy_seconds) / steps
            known = self.step_seconds
            self.step_seconds = seconds if known is None else known + _NEWEST_SHARE * (seconds - known)
            self.progress = progress
            self._moved_at = time.monotonic()

    @property
    def silent_seconds(self) -> float:
        """Since it was last known to sample; means nothing while it has no work."""
        return time.monotonic() - self._moved_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What a worker did in a time: sampled tokens a second, and the part of the time without any work."""

    tokens_per_second: float
    idle_fraction: float


def share(before: Progress, after: Progress, seconds: float) -> Share:
    """What lies between two accounts that are `seconds` apart."""
    busy = after.busy_seconds - before.busy_seconds
    return Share(
        tokens_per_second=(after.num_tokens - before.num_tokens) / seconds,
        idle_fraction=min(1.0, max(0.0, 1 - busy / seconds)),
    )


def slownesses(paces: Mapping[str, Pace], factor: float, at_work: Collection[str]) -> dict[str, float]:
    """How many times as long as the others' median a step takes, of those workers where that is `factor` or more.

    `at_work`: those that have something to sample. One that hangs answers nothing, and its silence counts.
    """
    found = {}
    for name, pace in paces.items():
        others = median_of(other.step_seconds for at, other in paces.items() if at != name)
        if others is None or others <= 0:
            continue
        seconds = pace.step_seconds or 0.0
        if name in at_work and pace.silent_seconds > max(_SILENT_SECONDS, _SILENT_STEPS * others):
            seconds = max(seconds, pace.silent_seconds)
        if seconds >= factor * others:
            found[name] = seconds / others
    return found


def median_of(values: Iterable[float | None]) -> float | None:
    """The median of those that are known."""
    known = [value for value in values if value is not None]
    return median(known) if known else None


def harvest_pause(num_workers: int) -> float:
    """Seconds between two harvests of one worker: what finishes meanwhile comes in one message, and each of these costs
    the driver a millisecond."""
    return min(num_workers / _HARVESTS_PER_SECOND, _LONGEST_PAUSE_SECONDS)
