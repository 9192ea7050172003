"""The buffer between sampling and training: bounds staleness, and accounts for every prompt once.

Staleness is the number of policy versions between the one that began a group and the one it trains.
Two rules hold it to `max_staleness` = S in any interleaving, with P prompts a step:

- admission: before version v is trained, at most (v + 1 + S) * P prompts are begun (dropped ones not counted);
- duty: a group begun at version b is due in the step that trains b + S. Each step takes so many of the groups
  due within the next j + 1 steps that no more than j * P of them are left, for every j (else a later step could
  not hold them all), and waits for them. What room is left goes to groups in the order they finished.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from experience.records import Group


@dataclass(slots=True)
class Ledger:
    """Where each prompt stands, by ordinal. Whatever is in neither set is consumed, dropped or not yet begun."""

    begun_at: dict[int, int]  # ordinal -> policy version when it was begun; in flight or finished
    finished: dict[int, Group]  # in the order of finishing
    num_consumed: int = 0
    num_dropped: int = 0
    num_begun: Counter[int] = field(default_factory=Counter)  # policy version -> how many of begun_at
    num_ready: Counter[int] = field(default_factory=Counter)  # the same of finished

    def begin(self, ordinal: int, version: int) -> None:
        """A prompt is in flight."""
        self.begun_at[ordinal] = version
        self.num_begun[version] += 1

    def finish(self, group: Group) -> None:
        """Its group is there."""
        self.finished[group.prompt.ordinal] = group
        self.num_ready[self.begun_at[group.prompt.ordinal]] += 1

    def remove(self, ordinal: int) -> Group | None:
        """It is consumed or dropped; its group, if it was finished."""
        version = self.begun_at.pop(ordinal)
        self.num_begun -= Counter({version: 1})  # leaves no zeros behind
        if ordinal in self.finished:
            self.num_ready -= Counter({version: 1})
        return self.finished.pop(ordinal, None)


class Buffer:
    """Groups between their beginning and their training step. One event loop, no threads."""

    def __init__(self, *, prompts_per_step: int, max_staleness: int, version: int, last_version: int) -> None:
        """`version` is trained first; nothing is begun that the step before `last_version` can't use."""
        self._prompts_per_step = prompts_per_step
        self._max_staleness = max_staleness
        self._slacks = range(max_staleness + 1)
        self._version = version
        self._first_version = version
        self._last_version = last_version
        self._ledger = Ledger(begun_at={}, finished={})
        self._is_training = False
        self._changed = asyncio.Event()

    @property
    def version(self) -> int:
        """The policy version that is trained next."""
        return self._version

    @property
    def num_in_flight(self) -> int:
        """Groups begun and not finished."""
        return len(self._ledger.begun_at) - len(self._ledger.finished)

    @property
    def num_finished(self) -> int:
        """Groups that wait for a training step."""
        return len(self._ledger.finished)

    def __str__(self) -> str:
        counts = f"{self.num_in_flight} groups in flight, {self.num_finished} finished, {self.num_dropped} dropped"
        return f"{counts}; a step takes {self._prompts_per_step}, and version {self._version} is trained next"

    @property
    def num_dropped(self) -> int:
        """Groups that were taken out since the start (failed, or without a learning signal)."""
        return self._ledger.num_dropped

    @property
    def has_room(self) -> bool:
        """Whether one more prompt may begin now."""
        ahead = min(self._version + 1 + self._max_staleness, self._last_version)
        steps = ahead - self._first_version
        begun = len(self._ledger.begun_at) + self._ledger.num_consumed
        return begun < steps * self._prompts_per_step

    async def admit(self, ordinal: int) -> None:
        """Begin a prompt; waits until the admission rule allows it."""
        while not self.has_room:
            await self._wait()
        if ordinal in self._ledger.begun_at:
            raise ValueError(f"prompt {ordinal} is in flight already")
        self._ledger.begin(ordinal, self._version)

    def add(self, group: Group) -> None:
        """A group is sampled and scored."""
        ordinal = group.prompt.ordinal
        if ordinal not in self._ledger.begun_at or ordinal in self._ledger.finished:
            raise ValueError(f"prompt {ordinal} is not in flight: its group came twice, or was never begun")
        self._ledger.finish(group)
        self._notify()

    def drop(self, ordinal: int) -> None:
        """A group will not be trained on; another prompt may take its place."""
        if ordinal not in self._ledger.begun_at:
            raise ValueError(f"prompt {ordinal} is not in flight, so it can't be dropped")
        self._ledger.remove(ordinal)
        self._ledger.num_dropped += 1
        self._notify()

    async def take(self) -> list[Group]:
        """The groups of the next training step, by ordinal; waits until there are enough."""
        while not self._is_complete():
            await self._wait()
        self._is_training = True
        ordinals = sorted(self._choose())
        self._ledger.num_consumed += len(ordinals)
        groups = [self._ledger.remove(ordinal) for ordinal in ordinals]
        return [group for group in groups if group is not None]

    def advance(self) -> None:
        """A training step is done: the policy has a new version."""
        self._version += 1
        self._is_training = False
        self._notify()

    def ahead(self, before: float = math.inf) -> Sequence[Group]:
        """What the next step will take of the groups that are finished; none between `take` and `advance`.

        On-policy it takes all that are begun: these come by ordinal, up to the first that is not finished, or is
        `before` or above. So whoever works through them does so in the same order, whichever finish first. Else
        those that duty asks for come first; the others may yet have to give way to such.
        """
        if self._is_training:
            return ()
        begun_at, finished = self._ledger.begun_at, self._ledger.finished
        if self._max_staleness:
            return [finished[ordinal] for ordinal in self._choose()]
        first = min([before, *(begun_at.keys() - finished.keys())])
        return [finished[ordinal] for ordinal in sorted(finished) if ordinal < first]

    async def change(self) -> None:
        """Wait until a group is finished or dropped, or a step is done."""
        await self._wait()

    @property
    def waiting(self) -> Sequence[Group]:
        """The groups that wait for a training step, in the order they finished."""
        return list(self._ledger.finished.values())

    def state(self) -> Mapping[str, Any]:
        """What a checkpoint keeps, as JSON.

        `begun`: prompts in flight, to be begun again. `waiting`: [ordinal, version that began it] of each group of
        `waiting`, to be kept beside this.
        """
        begun_at, finished = self._ledger.begun_at, self._ledger.finished
        return {
            "begun": sorted(begun_at.keys() - finished.keys()),
            "waiting": [[ordinal, begun_at[ordinal]] for ordinal in finished],
        }

    def restore(self, groups: Sequence[Group], begun_at: Mapping[int, int]) -> set[int]:
        """Take back groups that an earlier buffer held, in their order; the ordinals of those taken.

        Left out is what this buffer's bounds would make too old; that happens only where they are tighter than the
        earlier one's. Nothing may be begun yet.
        """
        assert not self._ledger.begun_at and not self._ledger.num_consumed
        for group in groups:
            ordinal = group.prompt.ordinal
            self._ledger.begin(ordinal, begun_at[ordinal])
            self._ledger.finish(group)
            is_young = self._version - begun_at[ordinal] <= self._max_staleness
            # As many steps as are left to the oldest must hold all that are due by then.
            if not is_young or any(self._missing(slack, 0) > self._prompts_per_step for slack in self._slacks):
                self._ledger.remove(ordinal)
        return set(self._ledger.begun_at)

    def _is_complete(self) -> bool:
        """Whether no group that duty asks for is missing, nor any of the number. By counts: asked at each change."""
        if len(self._ledger.finished) < self._prompts_per_step:
            return False
        num_chosen = 0
        for slack in self._slacks:
            missing = self._missing(slack, num_chosen)
            if missing > self._up_to(self._ledger.num_ready, slack) - num_chosen:
                return False
            num_chosen += max(0, missing)
        return True

    def _choose(self) -> Sequence[int]:
        """Ordinals for the next step, once it is complete."""
        chosen: dict[int, None] = {}
        for slack in self._slacks:
            if (missing := self._missing(slack, len(chosen))) > 0:
                due = (o for o in self._ledger.finished if self._is_due(o, slack) and o not in chosen)
                chosen |= dict.fromkeys(islice(due, missing))
        rest = [ordinal for ordinal in self._ledger.finished if ordinal not in chosen]
        return [*chosen, *rest][: self._prompts_per_step]

    def _missing(self, slack: int, num_chosen: int) -> int:
        """How many more of the groups due within the next `slack + 1` steps this step must take; not above 0: none."""
        return self._up_to(self._ledger.num_begun, slack) - slack * self._prompts_per_step - num_chosen

    def _is_due(self, ordinal: int, slack: int) -> bool:
        """Whether a group must be trained within the next `slack + 1` steps."""
        return self._ledger.begun_at[ordinal] <= self._version - self._max_staleness + slack

    def _up_to(self, counts: Mapping[int, int], slack: int) -> int:
        """How many of those counted by version are due within the next `slack + 1` steps."""
        newest = self._version - self._max_staleness + slack
        return sum(count for version, count in counts.items() if version <= newest)

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _notify(self) -> None:
        self._changed.set()
