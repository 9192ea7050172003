"""The math reward: markers, equality, policies, and agreement with published verdicts."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.contract import RewardError, RewardInput, Score, Status
from rewards.math_answer import gold_answer, score_math
from rewards.numbers import read_number

SHARED = Path(os.environ.get("WUTONG_SHARED") or Path(__file__).resolve().parents[3] / "shared")


def judge(response: str, gold: str | None = "42", prompt: str = "", **args: Any) -> Score:
    return score_math(RewardInput(prompt=prompt, response=response, answer=gold), **args)


def rows(name: str) -> list[dict[str, Any]]:
    path = SHARED / "data" / name
    if not path.is_file():
        pytest.skip(f"{path} is not here (set WUTONG_SHARED)")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("marker", "response"),
    [
        ("boxed", r"so \boxed{42}"),
        ("boxed", r"so \boxed {42}."),
        ("boxed", r"$\boxed{\text{42}}$"),
        ("boxed", r"\boxed{7} is the first step. " + "x" * 100 + r" \boxed{42}"),
        ("boxed", r"\boxed{42} ... therefore \boxed{42}"),
        ("boxed", r"<think>\boxed{41}</think>\boxed{42}"),
        ("hashes", "sum\n#### 42"),
        ("hashes", "#### 41\n#### 42\nbye"),
        ("answer_tag", "<answer>42</answer>"),
        ("answer_tag", r"<answer>\boxed{42}</answer>"),
        ("answer_is", "The answer is 42."),
        ("answer_is", "Answer: $42$"),
        ("answer_is", r"Final answer: \boxed{42}"),
        ("raw", "It is 20 + 22 = 42."),
        ("raw", "$6 \\times 7 = 42$"),
    ],
)
def test_the_marked_answer_is_found(marker: str, response: str) -> None:
    assert judge(response, marker=marker).value == 1.0


@pytest.mark.parametrize(
    ("marker", "response"),
    [
        ("boxed", "42"),
        ("boxed", r"\boxed{42"),
        ("boxed", r"\boxed{}"),
        ("boxed", ""),
        ("boxed", r"<think>\boxed{42}"),
        ("boxed", r"<think>\boxed{42}</think> done"),
        ("boxed", r"</think>\boxed{42}<think>"),
        ("hashes", "42"),
        ("hashes", "####"),
        ("answer_tag", "<answer></answer>"),
        ("answer_tag", "</answer>42<answer>"),
        ("answer_is", "The answer is not 42"),
        ("raw", "  "),
    ],
)
def test_without_the_marker_there_is_no_answer(marker: str, response: str) -> None:
    score = judge(response, marker=marker)
    assert (score.value, score.status) == (0.0, Status.NO_ANSWER)


def test_thinking_that_the_template_opened_must_be_closed() -> None:
    assert judge(r"\boxed{42}", prompt="<assistant><think>\n").status is Status.NO_ANSWER
    assert judge(r"hm</think>\boxed{42}", prompt="<assistant><think>\n").value == 1.0


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (r"\boxed{41} or rather \boxed{42}", "two different boxes"),
        (r"\boxed{41}, \boxed{42}", "several answers"),
        (r"\boxed{41 or 42}", "several answers"),
        (r"\boxed{41; 42}", "several answers"),
        (r"\boxed{41, 42}", "several answers"),
        (r"\boxed{42 \text{ or } 43}", "several answers"),
        (r"\boxed{" + "1+" * 300 + "1}", "characters"),
        (r"\boxed{" + "9" * 61 + "}", "60 digits"),
        ("\\boxed{4\u200b2}", "hidden character"),
        ("\\boxed{\u202e24}", "hidden character"),
        ("\\boxed{\x1b[31m42}", "hidden character"),
        ("\\boxed{٤٢}", "not ASCII"),
        (r"\boxed{" + "(" * 50 + "42" + ")" * 50 + "}", "nested too deep"),
    ],
)
def test_hedging_and_hiding_are_refused_and_worth_nothing(response: str, reason: str) -> None:
    score = judge(response)
    assert (score.value, score.status) == (0.0, Status.REFUSED)
    assert reason in score.detail


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("42", "42"), ("42.0", "42"), ("042", "42"), ("1,000", "1000"), (r"1{,}000", "1000"), (r"1,\!000", "1000"),
        ("0.5", "1/2"), (r"\frac12", "0.5"), (r"\dfrac{1}{2}", r"\frac{1}{2}"), ("40+2", "42"), ("(2+5)*6", "42"),
        ("-3", "-3.0"), ("−3", "-3"), ("x=42", "42"), (r"42\%", r"42\%"), ("42", r"42\%"), (r"\$42", "42"),
        ("2.6667", "8/3"), (r"\sqrt{4}", "2"), ("x+1", "1+x"), ("(1,2)", "(1, 2)"), (r"\{2,1\}", r"\{1,2\}"),
        ("2, 1", "1, 2"), (r"[0,\infty)", r"[0, \infty)"), (r"\text{even}", "even"), (r"90^\circ", "90"),
        (r"\boxed{42}", r"\boxed{42}"), ("2^{10}", "1024"), (r"x \geq 5", "x >= 5"), ("42", "so it is\n#### 42"),
    ],
)  # fmt: skip
def test_equal_answers_are_equal(answer: str, gold: str) -> None:
    assert judge(rf"\boxed{{{answer}}}", gold).value == 1.0


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("43", "42"), ("-42", "42"), ("4.2", "42"), ("0.333", "1/3"), ("2.67", "8/3"), ("x", "42"), ("(1,2)", "(2,1)"),
        ("[0,1)", "[0,1]"), ("x > 5", "x < 5"), ("A", "B"), (r"4\sqrt2", "4"), ("1025", "1024"), ("", "42"),
        ("10^3", "100"), ("forty-two", "42"), ("42x", "42"), ("1000001", "1000000"), ("nan", "42"), ("True", "1"),
    ],
)  # fmt: skip
def test_different_answers_are_different(answer: str, gold: str) -> None:
    assert judge(rf"\boxed{{{answer}}}", gold).value == 0.0


@pytest.mark.parametrize(
    ("policy", "answer", "gold"),
    [
        ({"is_percent_optional": False}, "100", r"100\%"),
        ({"must_be_reduced": True}, r"\frac{2}{4}", r"\frac{1}{2}"),
        ({"must_be_reduced": True}, "2/4", "1/2"),
        ({"is_decimal_a_fraction": False}, "0.5", "1/2"),
        ({"is_list_order_free": False}, "2, 1", "1, 2"),
        ({"min_rounded_decimals": 5}, "2.6667", "8/3"),
    ],
)
def test_a_policy_decides_what_is_disputed(policy: dict[str, Any], answer: str, gold: str) -> None:
    assert judge(rf"\boxed{{{answer}}}", gold).value == 1.0
    assert judge(rf"\boxed{{{answer}}}", gold, **policy).value == 0.0


@pytest.mark.parametrize("gold", [None, "", "  "])
def test_an_empty_gold_is_an_error_and_equals_no_empty_answer(gold: str | None) -> None:
    assert judge(r"\boxed{}", gold).value == 0.0
    assert judge(r"\boxed{42}", gold).status is Status.ERROR


def test_unknown_markers_and_policies_are_named_with_the_choices() -> None:
    with pytest.raises(RewardError, match="marker='box': unknown; choose one of boxed"):
        judge("x", marker="box")
    with pytest.raises(RewardError, match="the policies are is_percent_optional"):
        judge("x", is_percent_ok=True)


def test_the_gold_is_taken_out_of_a_worked_solution() -> None:
    assert gold_answer("6 * 7 = <<6*7=42>>42\n#### 42") == "42"
    assert gold_answer(r"so $x = \boxed{\frac{1}{2}}$.") == r"\frac{1}{2}"


@given(st.integers(-(10**30), 10**30), st.integers(-(10**30), 10**30))
def test_integers_are_equal_exactly_when_they_are(left: int, right: int) -> None:
    assert judge(rf"\boxed{{{left}}}", str(right)).value == float(left == right)
    assert judge(rf"\boxed{{{left:,}}}", str(left)).value == 1.0


@given(st.text(alphabet="0123456789+-*/(). ,", max_size=40))
def test_reading_a_number_agrees_with_python(text: str) -> None:
    value = read_number(text)
    plain = re.sub(r",", "", text).strip()
    plain = re.sub(r"(?<![0-9.])0+(?=[0-9])", "", plain)  # Python knows no leading zeros
    if value is None or "//" in text or "**" in text or re.search(r"[0-9] +[0-9]", plain):
        return
    assert float(value) == pytest.approx(eval(plain, {"__builtins__": {}}))


def presentations(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    answer = re.search(r"A: (.*)\Z", row["solution"], re.DOTALL)
    final = answer[1].strip() if answer else ""
    forms = {"boxed": "\\boxed{%s}", "hashes": "#### %s", "answer_is": "Answer: %s", "raw": "%s"}
    for marker, form in forms.items():
        yield marker, f"{row['solution']}\n{form % final}"


def test_published_verdicts_on_gsm8k_are_met_in_every_presentation() -> None:
    wrong = [
        (row["id"], marker)
        for row in rows("gsm8k/model_solutions.jsonl")
        for marker, response in presentations(row)
        if (judge(response, row["answer"], marker=marker).value == 1.0) != row["is_correct"]
    ]
    assert wrong == []


def test_core_pairs_of_public_verifiers_are_met() -> None:
    core = [row for row in rows("math_pairs.jsonl") if row["core"]]
    assert len(core) == 348
    wrong = [r["id"] for r in core if (judge(r["answer"], r["gold"], marker="raw").value == 1.0) != r["expected"]]
    assert len(wrong) <= 0.005 * len(core), wrong


def test_exchanging_answer_and_gold_changes_only_what_is_one_sided() -> None:
    """Equations, intervals for inequalities and worked sums are read differently as a gold answer: 1 in 12 pairs."""
    core = [row for row in rows("math_pairs.jsonl") if row["core"]]
    wrong = [r["id"] for r in core if (judge(r["gold"], r["answer"], marker="raw").value == 1.0) != r["expected"]]
    assert len(wrong) <= 0.085 * len(core), wrong
