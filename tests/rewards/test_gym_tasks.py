"""Every allowed task of reasoning-gym keeps what the allow-list promises; skipped where the package is not installed.

A task's own answers are right, its problems follow from the seed, no other answer is right, nothing is run as code,
and no verdict takes long.
"""

import inspect
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, TypeVar

import pytest

from configs.schema import ReasoningGymConfig
from configs.schema.gym_tasks import GYM_TASKS
from experience.gym import GymProblem, gym_problems
from rewards.contract import RewardInput, Score
from rewards.gym import score_reasoning_gym
from rewards.hostile import hostile_answers
from rewards.numbers import read_number

package = pytest.importorskip("reasoning_gym", reason="needs the extra reasoning-gym")

NUM_PROBLEMS, NUM_FOR_HOSTILE = 30, 5
RUNS_CODE = ("compile", "exec", "open", "subprocess", "os.", "socket", "ctypes")
HASHES = """
import hashlib, json, reasoning_gym, sys
for task in sys.argv[1:]:
    dataset = reasoning_gym.create_dataset(task, seed=5, size=6)
    print(task, hashlib.sha256(json.dumps([dataset[at] for at in range(6)]).encode()).hexdigest())
"""
SHAPES = [
    "nan", "NaN", "inf", "-inf", "Infinity", "sNaN", "[NaN]", "[]", "{}", "null", "[[NaN]]", "()", "", " ", "*", "?",
    ".*",
    "|", "1e999999999", "1/0", "0/0", "9" * 60, "[" * 15 + "]" * 15, "a" * 400, "[1]" * 100, '{"a": 1}', "A=1",
    "__import__('os').system('touch /tmp/wutong_pwned')", "().__class__", "%s%n", "{0.__class__}", "1," * 190,
    "1 " * 190, "x\n" * 90, "ABC" * 100, "UDLR" * 90, "any", "all of the above", "Yes or No", "True or False",
]  # fmt: skip

T = TypeVar("T")

_heard: list[str] = []
_listened_to: int | None = None  # a thread: those of other tests go on with what they do


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if threading.get_ident() == _listened_to and event.startswith(RUNS_CODE):
        _heard.append(event)


sys.addaudithook(_hear)  # for the life of the process: there is no taking it away


def problems(task: str, seed: int = 5) -> list[GymProblem]:
    return gym_problems(ReasoningGymConfig(task=task, num_train=NUM_PROBLEMS - 5, num_eval=5, seed=seed))


def observed(call: Callable[[], T]) -> T:
    """What the call returns; fails where it ran code, opened something or took a second."""
    global _listened_to
    _heard.clear()
    _listened_to, started = threading.get_ident(), time.perf_counter()
    try:
        result = call()
    finally:
        _listened_to = None
    assert time.perf_counter() - started < 1
    assert not _heard
    return result


def judge(problem: GymProblem, response: str) -> Score:
    item = RewardInput(prompt=problem.question, response=response, answer=problem.answer, columns=problem.row())
    return observed(lambda: score_reasoning_gym(item))


def is_same(answer: str, gold: str) -> bool:
    """Spelled alike but for case, spaces, commas between digits and the form of a number."""
    left, right = ("".join(text.replace(",", "").split()).casefold() for text in (answer, gold))
    if left == right:
        return True
    numbers = read_number(left), read_number(right)
    return numbers[0] is not None and numbers[0] == numbers[1]


def wrong_answers(gold: str, others: list[str]) -> Iterator[str]:
    """Other problems' answers, this one's with something else, and things that are no answer."""
    other = next((text for text in others if not is_same(text, gold)), "42")
    yield from SHAPES + others
    for left, right in ((gold, other), (other, gold), (gold, "junk"), ("junk", gold), (gold, gold)):
        yield from (left + between + right for between in (" or ", " and ", ", ", ",", "; ", " ", "\n", "\n\n", " # "))
    yield from (
        f"not {gold}",
        f"The answer is {gold}",
        f"{gold}?",
        f"[{gold}, {gold}]",
        f"x{gold}",
        gold[:-1],
        gold[1:],
    )
    yield from (f"-{gold}", f"1{gold}", f"{gold}1", f"{gold}/0", f"{gold}.0001", f"{gold}0.5", f"{gold},1")
    if (number := read_number(gold)) is not None:
        yield from (f"{float(number + Fraction(step)):.9f}" for step in ("1e-6", "-1e-6", "0.004", "1", "-1"))


@pytest.mark.parametrize("task", GYM_TASKS)
def test_a_tasks_own_answers_are_right_and_follow_from_the_seed(task: str) -> None:
    """Judged as they come back from the file; the score needs no settings, since the reward has none."""
    dataset = package.create_dataset(task, seed=5, size=NUM_PROBLEMS)
    entries = [json.loads(json.dumps(dataset[at])) for at in range(NUM_PROBLEMS)]
    larger = package.create_dataset(task, seed=5, size=7 * NUM_PROBLEMS)
    assert [json.loads(json.dumps(larger[at])) for at in reversed(range(NUM_PROBLEMS))] == entries[::-1]
    found = [GymProblem(task=task, question=e["question"], answer=e["answer"], entry=json.dumps(e)) for e in entries]
    assert all(problem.is_sound() for problem in found)
    assert problems(task) == problems(task) != problems(task, seed=6)
    assert "config" not in inspect.getsource(type(dataset).score_answer)


@pytest.mark.parametrize("task", GYM_TASKS)
def test_no_other_answer_is_right_and_none_is_run(task: str) -> None:
    drawn = problems(task)
    judge(drawn[0], "<answer>x</answer>")
    wrong = 0
    for problem in drawn:
        others = [other.answer for other in drawn if other is not problem]
        for answer in wrong_answers(problem.answer, others):
            if not is_same(answer, problem.answer):
                wrong += 1
                assert judge(problem, f"<answer>{answer}</answer>").value == 0.0, (answer, problem.answer)
    assert wrong > 50 * NUM_PROBLEMS


@pytest.mark.parametrize("task", GYM_TASKS)
def test_no_hostile_answer_is_right_and_none_is_run(task: str) -> None:
    for problem in problems(task)[:NUM_FOR_HOSTILE]:
        for _, text in hostile_answers():
            inner = text.removeprefix("\\boxed{").removesuffix("}") if text.startswith("\\boxed{") else text
            if not is_same(inner, problem.answer):
                for response in (text, f"<answer>{text}</answer>", f"<answer>{inner}</answer>"):
                    assert judge(problem, response).value == 0.0, (response[:80], problem.answer)


def test_problems_are_the_same_in_every_process() -> None:
    """String hashing differs from process to process, and with it the order of sets."""
    outputs = [
        subprocess.run(
            [sys.executable, "-c", HASHES, *GYM_TASKS],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        for seed in ("1", "2")
    ]
    assert len(outputs[0]) == len(GYM_TASKS)
    assert outputs[0] == outputs[1]


def test_the_search_for_code_that_runs_hears_it() -> None:
    """A task that is not allowed, since it evaluates text."""
    entry = package.create_dataset("bitwise_arithmetic", seed=5, size=1)[0]
    score = package.get_score_answer_fn("bitwise_arithmetic")
    with pytest.raises(AssertionError, match="compile"):
        observed(lambda: score("7", entry))
