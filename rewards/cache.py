"""Verdicts that are already known, for rewards that declare what their verdict depends on."""

import threading
from collections import OrderedDict
from collections.abc import Sequence

from rewards.contract import RewardInput, Score

_ENTRIES = 20_000
_CHARACTERS = 2_000  # longer texts hardly repeat, and would fill the memory


class VerdictCache:
    """The last verdicts of one reward, by the fields that decide them; no fields: remembers nothing."""

    def __init__(self, depends_on: Sequence[str]) -> None:
        self._fields = tuple(depends_on)
        self._scores: OrderedDict[tuple[str | None, ...] | None, Score] = OrderedDict()
        self._lock = threading.Lock()

    def key(self, item: RewardInput) -> tuple[str | None, ...] | None:
        """What decides the verdict on `item`; None: more than is known here."""
        return tuple(getattr(item, name) for name in self._fields) or None

    def recall(self, item: RewardInput) -> Score | None:
        """The verdict on a sample like this one, if it is known."""
        if not self._fields:
            return None
        with self._lock:
            return self._scores.get(self.key(item))

    def learn(self, item: RewardInput, score: Score) -> None:
        """Remember a verdict (no failure: the next call may go better), and forget the oldest of too many."""
        if not self._fields or score.status.is_failure or len(item.response) > _CHARACTERS:
            return
        with self._lock:
            self._scores[self.key(item)] = score
            if len(self._scores) > _ENTRIES:
                self._scores.popitem(last=False)
