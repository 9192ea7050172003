"""Arithmetic problems with several worked responses each, of which it is known how many steps are wrong."""

import random
from pathlib import Path

import pyarrow as pa

from configs.schema.data import RankedArithmeticConfig
from experience.arithmetic import Problem, arithmetic_tables, slip
from experience.generated import write_generated

# Part of the files' names: raise it when the same settings begin to give other rows.
GENERATOR_VERSION = 1


def write_ranked_arithmetic(config: RankedArithmeticConfig, folder: Path) -> tuple[Path, Path]:
    """Write the training and the held-out comparisons as Parquet; files of the same settings are reused."""
    return write_generated("ranked_arithmetic", GENERATOR_VERSION, config, ranked_tables, folder)


def ranked_tables(config: RankedArithmeticConfig) -> tuple[pa.Table, pa.Table]:
    """The tables of `arithmetic_tables` with two more columns, `responses` and `ratings`.

    A response's rating is minus the number of its wrong steps. It goes on from a wrong step as if that were
    right, so that later steps are neither better nor worse for it.
    """
    source = random.Random(f"ranked arithmetic {config.seed}")
    train, held_out = arithmetic_tables(config)
    repeated = pa.concat_tables([train] * config.rankings_per_problem)
    return _with_responses(repeated, config, source), _with_responses(held_out, config, source)


def worked_response(problem: Problem, errors: list[int]) -> str:
    """The steps and the boxed answer; step i is off by `errors[i]`."""
    steps = []
    for error in errors:
        problem = problem.reduced(error)
        steps.append(problem.expression)
    return f"{'='.join(steps)} \\boxed{{{steps[-1]}}}"


def _with_responses(table: pa.Table, config: RankedArithmeticConfig, source: random.Random) -> pa.Table:
    problems = [Problem.parse(prompt) for prompt in table["prompt"].to_pylist()]
    counts = [_sample(range(config.steps + 1), config.num_responses, source) for _ in problems]
    responses = [
        [worked_response(problem, _errors(config.steps, count, source)) for count in own]
        for problem, own in zip(problems, counts, strict=True)
    ]
    ratings = [[-count for count in own] for own in counts]
    return table.append_column("responses", [responses]).append_column("ratings", [ratings])


def _errors(num_steps: int, num_wrong: int, source: random.Random) -> list[int]:
    wrong = set(_sample(range(num_steps), num_wrong, source))
    return [slip(source) if step in wrong else 0 for step in range(num_steps)]


def _sample(values: range, count: int, source: random.Random) -> list[int]:
    """`count` of the values in random order. Only random() is promised to give the same stream everywhere."""
    return sorted(values, key=lambda _: source.random())[:count]
