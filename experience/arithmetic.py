"""Arithmetic problems made from a seed: prompt, answer, worked response and plain text, as Parquet."""

import itertools
import math
import random
import re
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from configs.schema.data import ArithmeticConfig, Operation, WebTextConfig
from experience.generated import write_generated

# Part of the files' names: raise it when the same settings begin to give other rows.
GENERATOR_VERSION = 1
# Spaces up to this size are listed in full, so that "too few" is a count and not a guess.
_ENUMERABLE = 200_000
# Random draws for each problem wanted before the space counts as exhausted.
_DRAWS_PER_PROBLEM = 50
_LARGEST_SLIP = 3
_SCHEMA = pa.schema([(name, pa.string()) for name in ("prompt", "answer", "response", "text")])
_APPLY: dict[Operation, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A chain such as 47+38*2, with the usual precedence; one operand more than operations."""

    operands: tuple[int, ...]
    operations: tuple[Operation, ...]

    @property
    def expression(self) -> str:
        """The chain without spaces: every character costs a token."""
        pairs = zip(self.operations, self.operands[1:], strict=True)
        return str(self.operands[0]) + "".join(f"{operation}{operand}" for operation, operand in pairs)

    @classmethod
    def parse(cls, expression: str) -> "Problem":
        """The chain that `expression` writes; its operands have no sign."""
        numbers, operations = re.findall(r"\d+", expression), re.findall(r"[-+*]", expression)
        return cls(operands=tuple(map(int, numbers)), operations=tuple(operations))

    def reduced(self, error: int = 0) -> "Problem":
        """The chain after its next operation, whose result is off by `error`.

        The next operation is the leftmost product, else the leftmost operation.
        """
        place = self.operations.index("*") if "*" in self.operations else 0
        value = _APPLY[self.operations[place]](self.operands[place], self.operands[place + 1]) + error
        return Problem(
            operands=(*self.operands[:place], value, *self.operands[place + 2 :]),
            operations=(*self.operations[:place], *self.operations[place + 1 :]),
        )

    def steps(self) -> list["Problem"]:
        """What is left after each operation; the last one is the value alone."""
        chain = [self.reduced()]
        while chain[-1].operations:
            chain.append(chain[-1].reduced())
        return chain

    def key(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Equal for problems that differ only in the order of their terms and factors."""
        terms: list[tuple[str, list[int]]] = [("+", [self.operands[0]])]
        for operation, operand in zip(self.operations, self.operands[1:], strict=True):
            if operation == "*":
                terms[-1][1].append(operand)
            else:
                terms.append((operation, [operand]))
        return tuple(sorted((sign, tuple(sorted(factors))) for sign, factors in terms))


def write_arithmetic(config: ArithmeticConfig, folder: Path) -> tuple[Path, Path]:
    """Write the training and the held-out problems as Parquet; files of the same settings are reused."""
    return write_generated("arithmetic", GENERATOR_VERSION, config, arithmetic_tables, folder)


def arithmetic_tables(config: ArithmeticConfig) -> tuple[pa.Table, pa.Table]:
    """Training and held-out rows {prompt, answer, response, text}.

    No problem is in both, in any order of its terms, and the training text shows no held-out one.
    """
    source = random.Random(f"arithmetic {config.seed}")
    problems = _distinct_problems(config, source)
    held_out, train = problems[: config.num_eval], problems[config.num_eval :]
    hidden = {problem.key() for problem in held_out}
    repeats = 1 if config.web_text is None else config.web_text.solutions_per_problem
    return _table(train * repeats, hidden, config, source), _table(held_out, set(), config, source)


def _table(problems: list[Problem], hidden: Set[object], config: ArithmeticConfig, source: random.Random) -> pa.Table:
    rows = []
    for problem in problems:
        steps = problem.steps()
        work = _linked(steps, config, source)
        answer = steps[-1].expression
        rows.append(
            {
                "prompt": f"{problem.expression}=?",
                "answer": answer,
                "response": f"{work} \\boxed{{{answer}}}",
                "text": "\n".join(_text_lines(problem, hidden, config, source)),
            }
        )
    return pa.Table.from_pylist(rows, schema=_SCHEMA)


def _text_lines(problem: Problem, hidden: Set[object], config: ArithmeticConfig, source: random.Random) -> list[str]:
    if config.web_text is None:
        chain = _linked([problem, *problem.steps()], config, source)
        return [chain, *_single_operations(config, hidden, source)]
    # The solution comes last: what is learned to follow it is the end of the text.
    singles = _last_operations(config, hidden, source)
    return [*singles, f"{problem.expression}=?", web_solution(problem, config.web_text, source)]


def _linked(chain: list[Problem], config: ArithmeticConfig, source: random.Random) -> str:
    """The chain's expressions with `=`, or with words drawn for each place, between them."""
    links = config.link_words or ("=",)
    first, *others = [step.expression for step in chain]
    # A single link draws nothing: the rows stay those of the seed.
    drawn = (links[0] if len(links) == 1 else links[math.floor(source.random() * len(links))] for _ in others)
    return first + "".join(link + other for link, other in zip(drawn, others, strict=True))


def web_solution(problem: Problem, config: WebTextConfig, source: random.Random) -> str:
    """One solution as the web has it: steps left out by chance, in tags or not, right or wrong."""
    num_steps = len(problem.operations)
    wrong_step = math.floor(source.random() * num_steps) if source.random() < config.wrong else None
    is_bare = config.bare > 0 and source.random() < config.bare
    written: list[str] = []
    for step in range(num_steps):
        problem = problem.reduced(slip(source) if step == wrong_step else 0)
        if not problem.operations or (source.random() >= config.skipped and not is_bare):
            written.append(problem.expression)
    chain = "=".join(written)
    if source.random() < config.tagged:
        return f"<think>{chain}</think><answer>{written[-1]}</answer>"
    return chain


def slip(source: random.Random) -> int:
    """How far a wrong step is off: 1 to 3, up or down."""
    size = 1 + math.floor(source.random() * _LARGEST_SLIP)
    return size if source.random() < 0.5 else -size


def _single_operations(config: ArithmeticConfig, hidden: Set[object], source: random.Random) -> list[str]:
    """Two sums of one operation: they are what a chain is made of, and are learned first."""
    single = config.model_copy(update={"steps": 1})
    drawn = [_draw(single, source) for _ in range(2)]
    return [f"{one.expression}={one.reduced().expression}" for one in drawn if one.key() not in hidden]


def _last_operations(config: ArithmeticConfig, hidden: Set[object], source: random.Random) -> list[str]:
    """Two sums of one operation as they come up at the end of a chain, where numbers may be negative or large."""
    drawn = [_draw(config, source) for _ in range(2)]
    last = [[one, *one.steps()][-2] for one in drawn]
    return [f"{one.expression}={one.reduced().expression}" for one in last if one.key() not in hidden]


def _distinct_problems(config: ArithmeticConfig, source: random.Random) -> list[Problem]:
    """num_eval + num_train problems in random order, no two of them equal by key."""
    wanted = config.num_eval + config.num_train
    chains = _num_operands(config) ** (config.steps + 1) * len(set(config.operations)) ** config.steps
    stream = _all_problems(config, source) if chains <= _ENUMERABLE else _random_problems(config, source, wanted)
    found: dict[object, Problem] = {}
    for problem in stream:
        found.setdefault(problem.key(), problem)
        if len(found) == wanted:
            return list(found.values())
    raise ValueError(
        f"data.arithmetic: only {len(found)} distinct problems with digits={config.digits}, steps={config.steps}, "
        f"operations={''.join(config.operations)}, but num_train={config.num_train} and num_eval={config.num_eval} "
        f"ask for {wanted}; raise digits or steps, or ask for fewer"
    )


def _all_problems(config: ArithmeticConfig, source: random.Random) -> Iterator[Problem]:
    numbers = range(1, _num_operands(config) + 1)
    operands = itertools.product(numbers, repeat=config.steps + 1)
    operations = list(itertools.product(sorted(set(config.operations)), repeat=config.steps))
    problems = [Problem(operands=a, operations=o) for a, o in itertools.product(operands, operations)]
    problems.sort(key=lambda _: source.random())
    yield from problems


def _random_problems(config: ArithmeticConfig, source: random.Random, wanted: int) -> Iterator[Problem]:
    return (_draw(config, source) for _ in range(_DRAWS_PER_PROBLEM * wanted))


def _draw(config: ArithmeticConfig, source: random.Random) -> Problem:
    # Only random() is promised to give the same stream in every version of Python.
    def below(count: int) -> int:
        return math.floor(source.random() * count)

    return Problem(
        operands=tuple(1 + below(_num_operands(config)) for _ in range(config.steps + 1)),
        operations=tuple(config.operations[below(len(config.operations))] for _ in range(config.steps)),
    )


def _num_operands(config: ArithmeticConfig) -> int:
    return 10**config.digits - 1  # 1 to 9...9: 0 makes trivial problems
