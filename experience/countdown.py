"""Countdown problems made from a seed: reach a target from given numbers with + - * / and brackets."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

_DRAWS_PER_PROBLEM = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class CountdownProblem:
    """Numbers, a target that they reach, and one way to it."""

    numbers: tuple[int, ...]
    target: int
    solution: str

    def row(self) -> dict[str, object]:
        """The problem as a row of data: prompt, answer, numbers, and a response that solves it."""
        listed = ", ".join(map(str, self.numbers))
        return {
            "prompt": f"Use each of {listed} once, with + - * / and brackets, to make {self.target}.",
            "answer": str(self.target),
            "numbers": list(self.numbers),
            "response": f"<answer>{self.solution}</answer>",
        }


def countdown_problems(
    num_problems: int, num_numbers: int = 4, largest: int = 99, seed: int = 0
) -> list[CountdownProblem]:
    """Distinct problems (no two with the same numbers and target); ValueError when there are not so many.

    Every target is a whole number from 1 to `largest`. The same arguments give the same problems.
    """
    if num_numbers < 2 or largest < 2:
        raise ValueError(f"num_numbers={num_numbers}, largest={largest}: both must be at least 2")
    source = random.Random(f"countdown {seed}")
    found: dict[tuple[tuple[int, ...], int], CountdownProblem] = {}
    for problem in _drawn(num_problems * _DRAWS_PER_PROBLEM, num_numbers, largest, source):
        found.setdefault((tuple(sorted(problem.numbers)), problem.target), problem)
        if len(found) == num_problems:
            return list(found.values())
    raise ValueError(
        f"only {len(found)} of {num_problems} distinct countdown problems with num_numbers={num_numbers} and "
        f"largest={largest} were found; raise one of them, or ask for fewer"
    )


def _drawn(draws: int, num_numbers: int, largest: int, source: random.Random) -> Iterator[CountdownProblem]:
    for _ in range(draws):
        numbers = tuple(source.randint(1, largest) for _ in range(num_numbers))
        value, solution = _combined([(Fraction(number), str(number)) for number in numbers], source)
        if value is not None and value.denominator == 1 and 1 <= value <= largest:
            yield CountdownProblem(numbers=numbers, target=int(value), solution=solution)


def _combined(parts: list[tuple[Fraction, str]], source: random.Random) -> tuple[Fraction | None, str]:
    """Join two random parts by a random operation until one is left; no value after a division by zero."""
    while len(parts) > 1:
        left, right = (parts.pop(source.randrange(len(parts))) for _ in range(2))
        operation = source.choice("+-*/")
        if operation == "/" and right[0] == 0:
            return None, ""
        value = {"+": left[0] + right[0], "-": left[0] - right[0], "*": left[0] * right[0]}.get(operation)
        text = f"({left[1]}{operation}{right[1]})"
        parts.append((left[0] / right[0] if value is None else value, text))
    value, text = parts[0]
    return value, text.removeprefix("(").removesuffix(")") if text.startswith("(") else text
