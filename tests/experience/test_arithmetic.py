import pyarrow.parquet as pq
import pytest

from configs.schema import ArithmeticConfig
from experience.arithmetic import Problem, arithmetic_tables, write_arithmetic

SMALL = ArithmeticConfig(num_train=200, num_eval=50)


def rows(config):
    return [table.to_pylist() for table in arithmetic_tables(config)]


def problem_of(prompt):
    text = prompt.removesuffix("=?")
    numbers = text.replace("+", " ").replace("-", " ").replace("*", " ").split()
    return Problem(operands=tuple(map(int, numbers)), operations=tuple(c for c in text if c in "+-*"))


def test_a_response_works_step_by_step_to_the_boxed_answer():
    problem = Problem(operands=(47, 38, 12), operations=("+", "-"))
    assert [step.expression for step in problem.steps()] == ["85-12", "73"]
    first = rows(SMALL)[0][0]
    assert first["response"].endswith(f" \\boxed{{{first['answer']}}}")
    assert first["response"].split("=")[0].count("-") + first["response"].split("=")[0].count("+") <= 2


def test_products_come_before_sums():
    problem = Problem(operands=(2, 3, 4), operations=("+", "*"))
    assert [step.expression for step in problem.steps()] == ["2+12", "14"]


def test_every_answer_and_every_line_of_text_is_true():
    for table in rows(ArithmeticConfig(operations=("+", "-", "*"), steps=3, num_train=200, num_eval=50)):
        for row in table:
            assert int(row["answer"]) == eval(row["prompt"].removesuffix("=?"))
            work = row["response"].split(" ")[0].split("=")
            for line in [*row["text"].splitlines(), "=".join([row["prompt"].removesuffix("=?"), *work])]:
                assert len({eval(side) for side in line.split("=")}) == 1, line


def test_the_texts_hold_chains_and_single_operations():
    text = rows(SMALL)[0][0]["text"].splitlines()
    assert [line.count("=") for line in text] == [2, 1, 1]


def test_held_out_problems_are_not_trained_on_in_any_order_of_terms():
    train, held_out = rows(ArithmeticConfig(digits=1, steps=2, num_train=850, num_eval=100))
    keys = {problem_of(row["prompt"]).key() for row in train}
    hidden = {problem_of(row["prompt"]).key() for row in held_out}
    assert len(keys) == 850 and len(hidden) == 100
    assert not keys & hidden
    shown = {problem_of(line.split("=")[0]).key() for row in train for line in row["text"].splitlines()}
    assert not shown & hidden


def test_texts_of_one_step_problems_never_show_a_held_out_problem():
    config = ArithmeticConfig(digits=2, steps=1, num_train=5000, num_eval=2000)
    train, held_out = rows(config)
    hidden = {problem_of(row["prompt"]).key() for row in held_out}
    assert not {problem_of(line.split("=")[0]).key() for row in train for line in row["text"].splitlines()} & hidden


def test_terms_in_another_order_are_the_same_problem():
    one = Problem(operands=(47, 38, 2, 12), operations=("+", "*", "-"))
    other = Problem(operands=(2, 38, 12, 47), operations=("*", "-", "+"))
    assert one.key() == other.key()
    assert one.key() != Problem(operands=(12, 38, 2, 47), operations=("+", "*", "-")).key()


def test_the_same_settings_give_the_same_rows_and_another_seed_others():
    assert rows(SMALL) == rows(SMALL)
    assert rows(SMALL)[0] != rows(SMALL.model_copy(update={"seed": 1}))[0]


def test_too_small_a_space_is_refused_with_its_size():
    config = ArithmeticConfig(digits=1, steps=1, operations=("+",), num_train=40, num_eval=10)
    with pytest.raises(ValueError, match=r"only 45 distinct problems .* ask for 50"):
        arithmetic_tables(config)


def test_files_of_the_same_settings_are_reused_and_others_stand_beside_them(tmp_path):
    first = write_arithmetic(SMALL, tmp_path)
    written = [path.stat().st_mtime_ns for path in first]
    assert write_arithmetic(SMALL, tmp_path) == first
    assert [path.stat().st_mtime_ns for path in first] == written
    other = write_arithmetic(SMALL.model_copy(update={"digits": 1, "num_train": 100}), tmp_path)
    assert not set(other) & set(first)
    assert sorted(tmp_path.iterdir()) == sorted([*first, *other])
    assert pq.read_table(first[0]).num_rows == 200
