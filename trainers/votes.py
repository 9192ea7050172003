"""Which of a prompt's sampled answers are the same answer, so that they vote together."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from metrics import activity
from metrics.waits import waited
from rewards.contract import RewardInput
from rewards.numbers import numbers_equal, read_number
from trainers.roles import Rewards


@dataclass(slots=True)
class Ballot:
    """Sorts answers into classes, and counts the comparisons that failed, which were taken for "different".

    `same`: gives two texts the value 1 where they are one answer (`use: same_answer`); None: the same text alone is.
    """

    same: Rewards | None
    num_failed: int = 0

    async def classes(self, answers: Sequence[str | None]) -> list[int | None]:
        """The class of each answer, numbered in the order of their first ones; None for no answer.

        An answer belongs to the first class whose first answer it equals.
        """
        texts = list(dict.fromkeys(answer for answer in answers if answer is not None))
        class_of: dict[str | None, int | None] = {None: None}
        number = 0
        while texts:
            first, *rest = texts
            equal = await self._equal(first, rest)
            class_of |= dict.fromkeys([first, *equal], number)
            texts = [text for text in rest if text not in equal]
            number += 1
        return [class_of[answer] for answer in answers]

    async def _equal(self, first: str, texts: Sequence[str]) -> set[str]:
        """Those that are the same answer as `first`. Of numbers that is known here, without asking."""
        if self.same is None or not texts:
            return set()
        known = {text: _numbers_equal(text, first) for text in texts}
        unsure = [text for text, is_equal in known.items() if is_equal is None]
        equal = {text for text, is_equal in known.items() if is_equal}
        if not unsure:
            return equal
        items = [RewardInput(prompt="", response=text, answer=first) for text in unsure]
        asked = self.same.score(items)
        scores = await waited(asked, what="comparisons of answers", owner="rewards", progress=activity.count)
        activity.note("comparing answers")
        self.num_failed += sum(score.value is None for score in scores)
        return equal | {text for text, score in zip(unsure, scores, strict=True) if score.value == 1.0}


async def all_classes(ballot: Ballot, answers: Sequence[Sequence[str | None]]) -> list[list[int | None]]:
    """The classes of every prompt's answers."""
    return list(await asyncio.gather(*(ballot.classes(row) for row in answers)))


def _numbers_equal(one: str, other: str) -> bool | None:
    """Whether two numbers are the same, whichever is taken for the gold; None where one is no number."""
    if read_number(one) is None or read_number(other) is None:
        return None
    return bool(numbers_equal(one, other) or numbers_equal(other, one))
