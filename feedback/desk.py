"""The desk: hands out pairs to labellers and takes their judgements. One event loop, no threads."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import xxhash

from feedback.journal import Choice, Journal, Judgement
from feedback.pairs import Pair

SECONDS_TO_JUDGE = 600.0  # a pair that a labeller left lying for so long is handed to others


class DeskError(ValueError):
    """A judgement that can't be taken; the message is for the labeller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """A pair as one labeller sees it. `left`: which of its responses stands on the left."""

    pair: Pair
    left: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """`done` of `wanted` judgements are there, `own` of them this labeller's."""

    own: int
    done: int
    wanted: int


class Desk:
    """Every pair is wanted to be judged by so many labellers, each on a side that chance decides."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        journal: Journal,
        judgements_per_pair: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pairs = {pair.id: pair for pair in pairs}
        self._journal = journal
        self._wanted = judgements_per_pair
        self._clock = clock
        self._leases: dict[str, tuple[str, float]] = {}  # labeller -> the pair before them, and since when

    def next(self, labeller: str) -> Assignment | None:
        """The pair before this labeller, or a new one; None when there is none for them, now at least."""
        lease = self._leases.get(labeller)
        if lease is None or self._is_judged(lease[0], labeller):
            free = self._free(labeller)
            if free is None:
                self._leases.pop(labeller, None)
                return None
            lease = self._leases[labeller] = free, self._clock()
        return self._assignment(lease[0], labeller)

    def take(self, labeller: str, judgement_id: str, pair_id: str, choice: Choice, seconds: float) -> None:
        """Keep a judgement. The same one again is taken once; DeskError for a pair that was judged already."""
        if judgement_id in self._journal:
            return
        if pair_id not in self._pairs:
            raise DeskError("this pair is not among those to judge; load the page again")
        if self._is_judged(pair_id, labeller):
            raise DeskError("you have judged this pair already; take your judgement back to change it")
        left = self._assignment(pair_id, labeller).left
        self._journal.add(
            Judgement(id=judgement_id, pair=pair_id, labeller=labeller, choice=choice, left=left, seconds=seconds)
        )

    def undo(self, labeller: str) -> Assignment | None:
        """Take the labeller's last judgement back and put its pair before them; None when there is none."""
        own = [judgement for judgement in self._judgements() if judgement.labeller == labeller]
        if not own:
            return None
        self._journal.take_back(own[-1].id)
        self._leases[labeller] = own[-1].pair, self._clock()
        return self._assignment(own[-1].pair, labeller)

    def progress(self, labeller: str) -> Progress:
        """How far all are."""
        judgements = self._judgements()
        counts = Counter(judgement.pair for judgement in judgements)
        return Progress(
            own=sum(judgement.labeller == labeller for judgement in judgements),
            done=sum(min(count, self._wanted) for count in counts.values()),
            wanted=self._wanted * len(self._pairs),
        )

    def _judgements(self) -> list[Judgement]:
        return [judgement for judgement in self._journal.judgements if judgement.pair in self._pairs]

    def _is_judged(self, pair_id: str, labeller: str) -> bool:
        return any(one.pair == pair_id and one.labeller == labeller for one in self._journal.judgements)

    def _free(self, labeller: str) -> str | None:
        """A pair that this labeller may judge and that has fewest others at it; None when all have enough."""
        judgements = self._judgements()
        taken = Counter(judgement.pair for judgement in judgements)
        now = self._clock()
        for other, (pair, since) in self._leases.items():
            if other != labeller and now - since < SECONDS_TO_JUDGE and not self._is_judged(pair, other):
                taken[pair] += 1
        own = {judgement.pair for judgement in judgements if judgement.labeller == labeller}
        open_pairs = [pair for pair in self._pairs if pair not in own and taken[pair] < self._wanted]
        # Pairs that somebody has begun with come first, so that few are left half judged.
        return max(open_pairs, key=lambda pair: taken[pair], default=None)

    def _assignment(self, pair_id: str, labeller: str) -> Assignment:
        # By chance, but the same when the page is loaded again.
        left = xxhash.xxh3_64_intdigest(f"{pair_id} {labeller}".encode()) & 1
        return Assignment(pair=self._pairs[pair_id], left=left)
