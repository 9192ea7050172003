import random
import re
from collections import Counter

import pyarrow.parquet as pq
import pytest

from configs.schema import ArithmeticConfig, WebTextConfig
from experience.arithmetic import Problem, arithmetic_tables, web_solution, write_arithmetic

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


WEB = SMALL.model_copy(update={"digits": 1, "steps": 3, "web_text": WebTextConfig()})


def solutions(**web):
    config = WEB.model_copy(update={"web_text": WebTextConfig(**web), "num_train": 800})
    return [(row["answer"], row["text"].splitlines()[-1]) for row in rows(config)[0]]


def test_text_of_the_web_ends_with_the_prompt_and_one_solution():
    for row in rows(WEB)[0]:
        *singles, prompt, solution = row["text"].splitlines()
        assert prompt == row["prompt"]
        assert all(eval(left) == int(right) for left, right in (line.split("=") for line in singles))
        assert re.fullmatch(r"[-+=0-9]+|<think>[-+=0-9]+</think><answer>-?[0-9]+</answer>", solution)


def test_web_text_changes_the_text_alone():
    for web, plain in zip(rows(WEB), rows(WEB.model_copy(update={"web_text": None})), strict=True):
        assert [row | {"text": ""} for row in web] == [row | {"text": ""} for row in plain]
        assert [row["text"] for row in web] != [row["text"] for row in plain]


def test_a_problem_may_have_several_solutions_and_a_held_out_one_has_one():
    config = WEB.model_copy(update={"web_text": WebTextConfig(solutions_per_problem=3)})
    train, held_out = rows(config)
    assert Counter(Counter(row["prompt"] for row in train).values()) == {3: 200}
    assert len({row["prompt"] for row in held_out}) == len(held_out) == 50
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in held_out}
    assert len({row["text"].splitlines()[-1] for row in train if row["prompt"] == train[0]["prompt"]}) > 1


def test_solutions_are_tagged_skip_steps_and_go_wrong_as_often_as_was_asked():
    tagged = [text.startswith("<think>") for _, text in solutions(tagged=0.3)]
    assert sum(tagged) / len(tagged) == pytest.approx(0.3, abs=0.05)
    steps = [text.count("=") for _, text in solutions(tagged=0, skipped=0.6)]
    assert sum(steps) / len(steps) == pytest.approx(0.4 * 2, abs=0.1)
    right = [text.split("=")[-1] == answer for answer, text in solutions(tagged=0, wrong=0.2)]
    assert sum(right) / len(right) == pytest.approx(0.8, abs=0.05)


def test_a_solution_without_slips_is_the_chain_or_the_answer_alone():
    config = WebTextConfig(tagged=1, skipped=0, wrong=0)
    problem = Problem(operands=(8, 6, 2, 4), operations=("-", "+", "-"))
    assert web_solution(problem, config, random.Random(0)) == "<think>2+2-4=4-4=0</think><answer>0</answer>"
    bare = WebTextConfig(tagged=0, skipped=1, wrong=0)
    assert web_solution(problem, bare, random.Random(0)) == "0"
    wrong = WebTextConfig(tagged=0, skipped=1, wrong=1)
    assert {abs(int(web_solution(problem, wrong, random.Random(seed)))) for seed in range(50)} == {1, 2, 3}


def test_steps_are_linked_by_words_drawn_for_each_place():
    config = SMALL.model_copy(update={"steps": 3, "digits": 1, "link_words": ("so", "то")})
    train, _ = rows(config)
    links = Counter(word for row in train for word in re.findall("so|то", row["response"].partition(" ")[0]))
    assert links.total() == 400 and set(links) == {"so", "то"}
    assert links["so"] == pytest.approx(200, abs=40)
    assert all(len(re.findall("so|то", row["text"].splitlines()[0])) == 3 for row in train)
    plain, _ = rows(config.model_copy(update={"link_words": ()}))
    assert [row["prompt"] for row in plain] == [row["prompt"] for row in train]
    with pytest.raises(ValueError, match="link_words with web_text"):
        ArithmeticConfig(link_words=("so",), web_text=WebTextConfig())


def test_bare_solutions_leave_out_every_step_and_the_others_none_of_theirs():
    steps = Counter(text.count("=") for _, text in solutions(tagged=0, skipped=0, bare=0.6))
    assert set(steps) == {0, 2}
    assert steps[0] / steps.total() == pytest.approx(0.6, abs=0.05)
