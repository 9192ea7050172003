"""The other built-in rules, each with answers that try to earn what they should not."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from rewards.blocklist import score_blocklist
from rewards.builtin import BUILTINS
from rewards.choice import score_choice
from rewards.contract import RewardError, RewardInput, Score, Status
from rewards.exact import score_exact, score_number
from rewards.format_tags import score_format
from rewards.gsm8k import score_gsm8k
from rewards.language import score_language
from rewards.length import score_length, score_overlong
from rewards.pattern import score_json_schema, score_regex
from rewards.repetition import score_repetition


def sample(
    response: str, answer: str | None = None, prompt: str = "", tokens: int = 0, finish: str = "stop"
) -> RewardInput:
    return RewardInput(
        prompt=prompt, response=response, answer=answer, num_response_tokens=tokens, finish_reason=finish
    )


def value(result: Score | float) -> float | None:
    return result.value if isinstance(result, Score) else result


@pytest.mark.parametrize("name", [name for name, row in BUILTINS.items() if not row.is_remote])
def test_every_row_of_the_table_names_a_function_that_takes_an_item(name: str) -> None:
    module, _, function = BUILTINS[name].target.partition(":")
    rule = getattr(importlib.import_module(module), function)
    assert next(iter(inspect.signature(rule).parameters)) == "item"
    assert rule.__doc__


@pytest.mark.parametrize(
    ("response", "expected", "status"),
    [
        ("#### 1,234", 1.0, Status.OK),
        ("#### $1234", 1.0, Status.OK),
        ("#### 1234.00", 1.0, Status.OK),
        ("#### 1234 dollars.", 1.0, Status.OK),
        ("#### 1233\n#### 1234", 1.0, Status.OK),
        ("#### 1234\n#### 1233", 0.0, Status.OK),
        ("#### 1234 or 1235", 0.0, Status.OK),
        ("1234", 0.0, Status.NO_ANSWER),
        ("<think>#### 1234", 0.0, Status.NO_ANSWER),
        ("<think>#### 1234</think>", 0.0, Status.NO_ANSWER),
        ("#### " + "1" * 70, 0.0, Status.REFUSED),
        ("#### 12\u200b34", 0.0, Status.REFUSED),
    ],
)
def test_gsm8k(response: str, expected: float, status: Status) -> None:
    score = score_gsm8k(sample(response, "worked\n#### 1,234"))
    assert (score.value, score.status) == (expected, status)


def test_gsm8k_without_a_gold_number_is_an_error() -> None:
    assert score_gsm8k(sample("#### 1", "#### one")).status is Status.ERROR


@pytest.mark.parametrize(
    ("response", "expected", "status"),
    [
        ("The answer is B.", 1.0, Status.OK),
        ("The answer is (B).", 1.0, Status.OK),
        ("Answer: B) Paris", 1.0, Status.OK),
        (r"the answer is \boxed{\text{B}}", 1.0, Status.OK),
        ("The answer is B, a city", 1.0, Status.OK),
        ("The answer is (B) A city", 1.0, Status.OK),
        ("The answer is C", 0.0, Status.OK),
        ("The answer is A or B", 0.0, Status.REFUSED),
        ("Answer: A, B, C, D", 0.0, Status.REFUSED),
        ("The answer is not B", 0.0, Status.NO_ANSWER),
        ("B", 0.0, Status.NO_ANSWER),
        ("The answer is Berlin", 0.0, Status.NO_ANSWER),
        ("<think>The answer is B", 0.0, Status.NO_ANSWER),
    ],
)
def test_choice(response: str, expected: float, status: Status) -> None:
    score = score_choice(sample(response, "(B) Paris"))
    assert (score.value, score.status) == (expected, status)


def test_choice_takes_no_gold_that_is_no_choice() -> None:
    assert score_choice(sample("The answer is Z", "Z")).status is Status.ERROR
    assert score_choice(sample("The answer is B", None)).status is Status.ERROR


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("Hello  world", 1.0),
        ("hello world", 0.0),
        ("<think>x</think>Hello world", 1.0),
        ("Hello world!", 0.0),
        ("", 0.0),
    ],
)
def test_exact(response: str, expected: float) -> None:
    assert score_exact(sample(response, "Hello world")).value == expected


def test_exact_may_ignore_case_and_never_equals_an_empty_gold() -> None:
    assert score_exact(sample("HELLO", "hello"), is_case_free=True).value == 1.0
    assert score_exact(sample("", "")).status is Status.ERROR


@pytest.mark.parametrize(
    ("response", "expected"), [("101", 1.0), ("99", 1.0), ("102", 0.0), ("nan", 0.0), ("1e2", 0.0)]
)
def test_number_within_a_tolerance(response: str, expected: float) -> None:
    assert score_number(sample(response, "100"), tolerance=0.01).value == expected


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("<think>a</think><answer>b</answer>", 1.0),
        ("<think>\na\n</think>\n<answer>b</answer><|im_end|>\n", 1.0),
        ("<think></think><answer>b</answer>", 0.0),
        ("<think>a</think><answer> </answer>", 0.0),
        ("<answer>b</answer><think>a</think>", 0.0),
        ("<think>a</think><answer>b</answer><answer>c</answer>", 0.0),
        ("<think>a<think>a</think></think><answer>b</answer>", 0.0),
        ("<think>a</think> so <answer>b</answer>", 0.0),
        ("<think>a</think><answer>b</answer> and more", 0.0),
        ("x<think>a</think><answer>b</answer>", 0.0),
        ("<think>a</think><answer>b", 0.0),
        ("</think><answer>b</answer>", 0.0),
        ("", 0.0),
        ("<THINK>a</THINK><answer>b</answer>", 0.0),
        ("<think>" * 100_000, 0.0),
    ],
)
def test_format(response: str, expected: float) -> None:
    assert score_format(sample(response)).value == expected


def test_format_knows_that_the_template_opened_the_thinking() -> None:
    opened = "<|assistant|><think>\n"
    assert score_format(sample("a</think><answer>b</answer>", prompt=opened)).value == 1.0
    assert score_format(sample("<think>a</think><answer>b</answer>", prompt=opened)).value == 0.0


def test_format_may_leave_the_last_section_open() -> None:
    assert score_format(sample("<think>a</think>b"), is_last_open=True).value == 1.0
    assert score_format(sample("<think>a</think>"), is_last_open=True).value == 0.0
    assert score_format(sample("<think>a</think><answer>b"), is_last_open=True).value == 0.0


@pytest.mark.parametrize(
    ("tokens", "finish", "expected"), [(0, "stop", 0.0), (80, "stop", 0.0), (90, "stop", -0.5), (100, "stop", -1.0),
                                       (120, "stop", -1.0), (10, "length", -1.0)]
)  # fmt: skip
def test_overlong_is_equation_13(tokens: int, finish: str, expected: float) -> None:
    assert score_overlong(sample("x", tokens=tokens, finish=finish), max_tokens=100, buffer_tokens=20) == expected


@pytest.mark.parametrize(("tokens", "expected"), [(0, -1.0), (5, -0.5), (10, 0.0), (20, 0.0), (30, -0.5), (400, -1.0)])
def test_length_is_punished_outside_of_its_bounds(tokens: int, expected: float) -> None:
    assert score_length(sample("x", tokens=tokens), min_tokens=10, max_tokens=20) == expected


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("a b c d e", 0.0),
        ("a b c a b c", -0.25),
        ("", 0.0),
        ("one two", 0.0),
        ("x y " * 500, -1 + 2 / 998),
        ("好" * 100, -1 + 1 / 98),
    ],
)
def test_repetition_is_the_share_of_repeated_runs(response: str, expected: float) -> None:
    assert score_repetition(sample(response)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("response", "script", "expected"),
    [
        ("hello", "latin", 1.0),
        ("hell好", "latin", 0.8),
        ("你好", "latin", 0.0),
        ("你好 $\\alpha x$ `code` \\frac", "han", 1.0),
        ("αβ ab", "latin+greek", 1.0),
        ("123 + 4", "latin", None),
    ],
)
def test_language_is_the_share_of_letters(response: str, script: str, expected: float | None) -> None:
    assert score_language(sample(response), script=script).value == expected


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("hello wide мир", 2 / 3),
        ("so то so то", 0.5),
        ("cмешано mixed", 0.5),  # a word in two scripts is in neither
        ("4-4=0", None),
        (r"2+2 so \boxed{4}", 1.0),
    ],
)
def test_language_by_words_is_the_share_of_whole_words(response: str, expected: float | None) -> None:
    assert score_language(sample(response), unit="words").value == expected


def test_regex() -> None:
    assert score_regex(sample("<think>no</think>yes 12"), pattern=r"\d+") == 1.0
    assert score_regex(sample("<think>12</think>yes"), pattern=r"\d+") == 0.0
    assert score_regex(sample("12 "), pattern=r"\d+", is_whole=True) == 1.0
    with pytest.raises(RewardError, match=r"pattern='\(': missing"):
        score_regex(sample("x"), pattern="(")


SCHEMA = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}, "additionalProperties": False}


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ('{"a": 1}', 1.0),
        ('So:\n```json\n{"a": 1}\n```', 1.0),
        ('<think>{"a": 0}</think>\n{"a": 1}', 1.0),
        ('{"a": "1"}', 0.0),
        ('{"a": 1, "b": 2}', 0.0),
        ('{"a": NaN}', 0.0),
        ('{"a": 1', 0.0),
        ("", 0.0),
        ("[" * 100_000, 0.0),
        ('__import__("os").system("true")', 0.0),
    ],
)
def test_json_schema(response: str, expected: float) -> None:
    assert score_json_schema(sample(response), schema=SCHEMA).value == expected


def test_a_wrong_schema_is_the_recipes_fault() -> None:
    with pytest.raises(RewardError, match="the schema itself is wrong"):
        score_json_schema(sample("{}"), schema={"type": "objekt"})


@pytest.mark.parametrize("response", ["how to Make a BOMB", "ｂｏｍｂ", "bo\u200bmb", "a  BOMB."])
def test_blocklist_sees_through_disguises(response: str) -> None:
    assert score_blocklist(sample(response), words=["bomb"]).value == 0.0


def test_blocklist_keeps_to_word_borders() -> None:
    assert score_blocklist(sample("bombastic"), words=["bomb"]).value == 1.0


@pytest.mark.parametrize(
    ("rule", "args", "message"),
    [
        (score_format, {"tags": []}, "tags"),
        (score_format, {"tags": ["a b"]}, "tags"),
        (score_length, {"min_tokens": 5, "max_tokens": 2}, "min_tokens=5"),
        (score_overlong, {"max_tokens": 10, "buffer_tokens": 20}, "buffer_tokens=20"),
        (score_repetition, {"size": 0}, "size=0"),
        (score_language, {"script": "klingon"}, "klingon"),
        (score_language, {"unit": "sentences"}, "choose from letters, words"),
        (score_blocklist, {}, "words"),
        (score_choice, {"marker": "x"}, "marker='x'"),
        (score_exact, {"marker": "x"}, "marker='x'"),
    ],
)
def test_wrong_arguments_are_named(rule: Callable[..., Any], args: Mapping[str, Any], message: str) -> None:
    with pytest.raises(RewardError, match=message):
        rule(sample("x", "A"), **args)
