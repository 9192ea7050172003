"""What a response's answer is, as each reward reads it, and whether two answers are the same."""

import importlib
import inspect

import pytest

from rewards.builtin import BUILTINS
from rewards.contract import RewardInput
from rewards.marked import READINGS, marked_answer, reading_of
from rewards.same_answer import score_same_answer


def item(response: str, answer: str | None = None) -> RewardInput:
    return RewardInput(prompt="", response=response, answer=answer)


@pytest.mark.parametrize("use", READINGS)
def test_the_table_says_where_the_reward_itself_looks(use: str) -> None:
    module, _, function = BUILTINS[use].target.partition(":")
    parameters = inspect.signature(getattr(importlib.import_module(module), function)).parameters
    assert READINGS[use].has_argument == ("marker" in parameters)
    if "marker" in parameters:
        assert READINGS[use].marker == parameters["marker"].default


@pytest.mark.parametrize(
    ("use", "marker", "response", "answer"),
    [
        ("math", None, r"So \boxed{\frac12} it is", r"\frac12"),
        ("math", None, r"\boxed{1} or \boxed{2}", "1, 2"),
        ("math", None, "It is 12", None),
        ("math", None, "<think>\\boxed{1}", None),
        ("math", None, "\\boxed{4\u200b2}", None),
        ("math", "hashes", "so\n#### 12 apples", "12 apples"),
        ("math", "raw", "  It is\n12. ", "It is 12."),
        ("gsm8k", None, "so\n#### $1,234 dollars.", "1,234"),
        ("number", None, " 12.5 ", "12.5"),
        ("exact", None, r"the \boxed{7} ", r"the \boxed{7}"),
        ("choice", None, "The answer is (B) Paris", "B"),
        ("choice", None, "The answer is A or B", None),
        ("countdown", None, "<answer> 1 +  2 </answer>", "1 + 2"),
        ("./mine.py:rule", "answer_is", "The answer is 5.", "5"),
        ("./mine.py:rule", "boxed", "", None),
    ],
)
def test_the_answer_is_read_where_the_reward_reads_it(
    use: str, marker: str | None, response: str, answer: str | None
) -> None:
    reading = reading_of(use, marker)
    assert reading is not None
    assert marked_answer(item(response), reading) == answer


def test_nothing_says_where_a_reward_of_the_users_looks() -> None:
    assert reading_of("./mine.py:rule", None) is None
    assert reading_of("format", None) is None


@pytest.mark.parametrize(("use", "marker"), [("math", "box"), ("./mine.py:rule", ""), ("gsm8k", "boxed")])
def test_a_marker_that_is_none_is_refused(use: str, marker: str) -> None:
    with pytest.raises(ValueError, match=r"choose one of boxed|reads hashes and nothing else"):
        reading_of(use, marker)


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        (r"\frac12", "0.5", 1.0),
        ("2.6667", "8/3", 1.0),
        (r"\text{Paris}", "Paris", 1.0),
        ("x^2", "x^3", 0.0),
        ("", "", 0.0),
        ("", "1", 0.0),
    ],
)
def test_two_answers_are_the_same_either_way_round(one: str, other: str, is_same: float) -> None:
    assert score_same_answer(item(one, other)).value == is_same
    assert score_same_answer(item(other, one)).value == is_same
