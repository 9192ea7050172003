"""Answers that are the same value vote together: the real verifier, in its process."""

import asyncio
from collections.abc import Iterator, Sequence

import pytest

from configs.schema.rewards import RewardPoolConfig, RewardSpec
from rewards.contract import RewardInput, Score, Status
from rewards.pool import RewardPool
from trainers.votes import Ballot, all_classes


@pytest.fixture(scope="module")
def same() -> Iterator[RewardPool]:
    pool = RewardPool((RewardSpec(use="same_answer", timeout_seconds=60),), RewardPoolConfig())
    pool.start()
    yield pool
    pool.close()


def classes(ballot: Ballot, answers: Sequence[str | None]) -> list[int | None]:
    return asyncio.run(ballot.classes(answers))


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["1/2", "0.5", r"\frac12", r"\frac{1}{2}", r"\dfrac{2}{4}", "0.50", "$\\frac{1}{2}$"], [0] * 7),
        (["1/2", "2", "0.5", "2.0", "1"], [0, 1, 0, 1, 2]),
        (["x+1", "1+x", "x-1", "x + 1"], [0, 0, 1, 0]),
        ([r"2\sqrt{2}", r"\sqrt{8}", r"\sqrt{2}"], [0, 0, 1]),
        (["(1, 2)", "(2, 1)", "(1,2)"], [0, 1, 0]),
        (["1,000", "1000", "1{,}000"], [0, 0, 0]),
        (["8/3", "2.6667", "2.67"], [0, 0, 1]),
        (["2.6667", "8/3"], [0, 0]),
        ([None, "7", None, "7", "8"], [None, 0, None, 0, 1]),
        ([r"\text{Paris}", "London", "Paris"], [0, 1, 0]),
        ([], []),
    ],
)
def test_answers_of_one_value_are_one_class(
    same: RewardPool, answers: list[str | None], expected: list[int | None]
) -> None:
    ballot = Ballot(same)
    assert classes(ballot, answers) == expected
    assert ballot.num_failed == 0


def test_a_text_that_ends_on_an_answer_is_read_for_it() -> None:
    pool = RewardPool(
        (RewardSpec(use="same_answer", args={"is_whole": False}, timeout_seconds=60),), RewardPoolConfig()
    )
    pool.start()
    try:
        assert classes(Ballot(pool), ["It is 5.", "So we get 5", "I say 6"]) == [0, 0, 1]
    finally:
        pool.close()


def test_without_a_judge_only_the_same_text_is_the_same_answer() -> None:
    assert classes(Ballot(None), ["1/2", "0.5", "1/2", None]) == [0, 1, 0, None]


class Judge:
    """Takes two answers for one where they begin alike, fails on "?", and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []

    async def score(self, items: Sequence[RewardInput]) -> list[Score]:
        self.asked += [(item.response, item.answer) for item in items]
        return [self.verdict(item.response, item.answer or "") for item in items]

    @staticmethod
    def verdict(one: str, other: str) -> Score:
        return Score(value=None, status=Status.TIMEOUT) if one == "?" else Score(value=float(one[0] == other[0]))


def test_an_answer_joins_the_first_class_whose_first_member_it_equals() -> None:
    judge = Judge()
    assert classes(Ballot(judge), ["ab", "cd", "ax", "ce", "ab"]) == [0, 1, 0, 1, 0]
    assert judge.asked == [("cd", "ab"), ("ax", "ab"), ("ce", "ab"), ("ce", "cd")]


def test_numbers_are_compared_without_asking() -> None:
    judge = Judge()
    assert classes(Ballot(judge), ["12", "1/2", "12.0", "0.5"]) == [0, 1, 0, 1]
    assert judge.asked == []


def test_a_comparison_that_fails_counts_as_different_and_is_counted() -> None:
    ballot = Ballot(Judge())
    assert asyncio.run(all_classes(ballot, [["a", "?", "ab"], ["?", None]])) == [[0, 1, 0], [0, None]]
    assert ballot.num_failed == 1
