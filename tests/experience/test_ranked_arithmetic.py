"""Ranked arithmetic: ratings against a slow recount, and problems kept apart."""

import itertools
import random

from configs.schema.data import ArithmeticConfig, RankedArithmeticConfig
from experience.arithmetic import Problem, arithmetic_tables
from experience.ranked_arithmetic import ranked_tables, worked_response

CONFIG = RankedArithmeticConfig(steps=3, digits=1, num_train=150, num_eval=20, num_responses=4)


def num_wrong_steps(prompt: str, response: str) -> int:
    """Links of the chain whose two sides have different values."""
    chain = [prompt.removesuffix("=?"), *response.split(" ")[0].split("=")]
    return sum(eval(left) != eval(right) for left, right in itertools.pairwise(chain))


def test_a_rating_is_minus_the_number_of_wrong_steps() -> None:
    for table in ranked_tables(CONFIG):
        for row in table.to_pylist():
            assert row["ratings"] == [-num_wrong_steps(row["prompt"], response) for response in row["responses"]]
            assert sorted(row["ratings"]) == [-3, -2, -1, 0]


def test_the_best_response_is_the_worked_one() -> None:
    for row in ranked_tables(CONFIG)[1].to_pylist():
        assert row["responses"][row["ratings"].index(0)] == row["response"]


def test_problems_are_those_of_plain_arithmetic_so_that_held_out_ones_stay_so() -> None:
    plain = ArithmeticConfig(**{key: getattr(CONFIG, key) for key in ArithmeticConfig.model_fields})
    for table, expected in zip(ranked_tables(CONFIG), arithmetic_tables(plain), strict=True):
        assert table.select(expected.column_names).to_pylist() == expected.to_pylist()


def test_the_same_settings_make_the_same_tables() -> None:
    random.seed(1)
    first = ranked_tables(CONFIG)
    random.seed(2)
    assert first == ranked_tables(CONFIG)


def test_a_response_goes_on_from_its_wrong_step() -> None:
    assert worked_response(Problem.parse("8-6+2"), [1, 0]) == "3+2=5 \\boxed{5}"
    assert worked_response(Problem.parse("2+3*4"), [0, -2]) == "2+12=12 \\boxed{12}"


def test_a_training_problem_comes_as_often_as_it_is_to_be_ranked() -> None:
    train, held_out = ranked_tables(CONFIG.model_copy(update={"rankings_per_problem": 3}))
    rows = train.to_pylist()
    assert len(rows) == 3 * 150 and len(held_out) == 20
    assert [row["prompt"] for row in rows[150:300]] == [row["prompt"] for row in rows[:150]]
    assert [row["responses"] for row in rows[150:300]] != [row["responses"] for row in rows[:150]]
