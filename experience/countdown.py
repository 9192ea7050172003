"""Countdown problems made from a seed: reach a target from given numbers with + - * / and brackets."""

import math
import random
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from configs.schema.data import CountdownConfig
from experience.generated import write_generated

# Part of the files' names: raise it when the same settings begin to give other rows.
GENERATOR_VERSION = 1
# Random draws in a row without a new problem before there count as being no more.
_MAX_BARREN_DRAWS = 100_000
_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("prompt", "answer")),
        ("numbers", pa.list_(pa.int64())),
        *((name, pa.string()) for name in ("response", "text")),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CountdownProblem:
    """Numbers, a target that they reach, and one way to it."""

    numbers: tuple[int, ...]
    target: int
    solution: str

    def key(self) -> tuple[tuple[int, ...], int]:
        """Equal for problems that differ only in the order of their numbers."""
        return tuple(sorted(self.numbers)), self.target

    def row(self) -> dict[str, object]:
        """The problem as a row of data: prompt, answer, numbers, a response that solves it, and both as a text."""
        listed = ", ".join(map(str, self.numbers))
        prompt = (
            f"Use each of {listed} once, with + - * / and brackets, to make {self.target}. "
            "Write the expression between <answer> and </answer>."
        )
        response = f"<answer>{self.solution}</answer>"
        return {
            "prompt": prompt,
            "answer": str(self.target),
            "numbers": list(self.numbers),
            "response": response,
            "text": f"{prompt}\n{response}",
        }


def write_countdown(config: CountdownConfig, folder: Path) -> tuple[Path, Path]:
    """Write the training and the held-out problems as Parquet; files of the same settings are reused."""
    return write_generated("countdown", GENERATOR_VERSION, config, countdown_tables, folder)


def countdown_tables(config: CountdownConfig) -> tuple[pa.Table, pa.Table]:
    """Training and held-out rows {prompt, answer, numbers, response, text}; no problem is in both, in any order."""
    wanted = config.num_eval + config.num_train
    problems = countdown_problems(wanted, config.num_numbers, config.largest, config.seed)
    return _table(problems[config.num_eval :]), _table(problems[: config.num_eval])


def countdown_problems(
    num_problems: int, num_numbers: int = 4, largest: int = 99, seed: int = 0
) -> list[CountdownProblem]:
    """Distinct problems (no two with the same numbers and target); ValueError when there are not so many.

    Every target is a whole number from 1 to `largest`. The same arguments give the same problems.
    """
    if num_numbers < 2 or largest < 2:
        raise ValueError(f"num_numbers={num_numbers}, largest={largest}: both must be at least 2")
    source = random.Random(f"countdown {seed}")
    found: dict[object, CountdownProblem] = {}
    barren_draws = 0
    while len(found) < num_problems and barren_draws < _MAX_BARREN_DRAWS:
        problem = _draw(num_numbers, largest, source)
        barren_draws += 1
        if problem is not None and problem.key() not in found:
            found[problem.key()] = problem
            barren_draws = 0
    if len(found) == num_problems:
        return list(found.values())
    raise ValueError(
        f"data.countdown: only {len(found)} of {num_problems} distinct countdown problems with "
        f"num_numbers={num_numbers} and largest={largest} were found; raise one of them, or ask for fewer"
    )


def _table(problems: list[CountdownProblem]) -> pa.Table:
    return pa.Table.from_pylist([problem.row() for problem in problems], schema=_SCHEMA)


def _draw(num_numbers: int, largest: int, source: random.Random) -> CountdownProblem | None:
    """Random numbers, joined at random; None where that comes to no target."""
    numbers = tuple(1 + _below(largest, source) for _ in range(num_numbers))
    parts = [(number, str(number)) for number in numbers]
    while len(parts) > 1:
        (left, left_text), (right, right_text) = (parts.pop(_below(len(parts), source)) for _ in range(2))
        operation = "+-*/"[_below(4, source)]
        value = _applied(operation, left, right)
        if value is None:
            return None
        parts.append((value, f"({left_text}{operation}{right_text})"))
    target, text = parts[0]
    if not 1 <= target <= largest:
        return None
    return CountdownProblem(numbers=numbers, target=target, solution=text.removeprefix("(").removesuffix(")"))


def _applied(operation: str, left: int, right: int) -> int | None:
    """The whole number that the operation gives, if it gives one."""
    if operation == "/":
        return left // right if right != 0 and left % right == 0 else None
    return {"+": left + right, "-": left - right, "*": left * right}[operation]


def _below(count: int, source: random.Random) -> int:
    # Only random() is promised to give the same stream in every version of Python.
    return math.floor(source.random() * count)
