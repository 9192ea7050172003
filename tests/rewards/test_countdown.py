"""Countdown: the generator's problems can be solved, and the reward takes nothing but a solution."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experience.countdown import CountdownProblem, countdown_problems
from rewards.contract import RewardInput, Score, Status
from rewards.countdown import score_countdown

PROBLEM = CountdownProblem(numbers=(3, 5, 7), target=26, solution="3*7+5")


def judge(problem: CountdownProblem, response: str, must_use_all: bool = True) -> Score:
    row = problem.row()
    item = RewardInput(prompt="", response=response, answer=str(row["answer"]), columns=row)
    return score_countdown(item, must_use_all=must_use_all)


@given(st.integers(0, 1000), st.integers(2, 5), st.integers(5, 99))
def test_every_problem_is_solved_by_its_own_solution(seed: int, num_numbers: int, largest: int) -> None:
    for problem in countdown_problems(3, num_numbers, largest, seed):
        assert judge(problem, str(problem.row()["response"])).value == 1.0


def test_the_same_seed_gives_the_same_problems_and_no_problem_twice() -> None:
    problems = countdown_problems(200, seed=3)
    assert problems == countdown_problems(200, seed=3)
    assert problems != countdown_problems(200, seed=4)
    assert len({(tuple(sorted(problem.numbers)), problem.target) for problem in problems}) == 200


def test_asking_for_more_problems_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="distinct countdown problems with num_numbers=2 and largest=2"):
        countdown_problems(50, num_numbers=2, largest=2)


@pytest.mark.parametrize("answer", ["3*7+5", "5 + 7 * 3", "(3*7)+5 = 26", "5--3*7"])
def test_any_solution_is_right(answer: str) -> None:
    assert judge(PROBLEM, f"<answer>{answer}</answer>").value == 1.0


@pytest.mark.parametrize(
    "answer",
    ["26", "3*7+4", "3*7+5+0", "3*7+5+7-7", "3*7+5 = 27", "3**7+5", "37-5", "21+5", "3*7", "3*7+5; 1", "x", "3*(7+5",
     "__import__('os')", "5/(3-3)", "3*7+5 or 1", "0x1A"],
)  # fmt: skip
def test_anything_else_is_wrong(answer: str) -> None:
    assert judge(PROBLEM, f"<answer>{answer}</answer>").value == 0.0


def test_numbers_may_be_left_over_where_the_recipe_says_so() -> None:
    problem = CountdownProblem(numbers=(3, 5, 7), target=21, solution="")
    assert judge(problem, "<answer>3*7</answer>").value == 0.0
    assert judge(problem, "<answer>3*7</answer>", must_use_all=False).value == 1.0


def test_without_numbers_or_answer_there_is_no_verdict() -> None:
    assert judge(PROBLEM, "3*7+5").status is Status.NO_ANSWER
    item = RewardInput(prompt="", response="<answer>1</answer>", answer="1")
    assert score_countdown(item).status is Status.ERROR
