r"""The rules beside the recipes: `right_steps`, the gold of instructgpt.yaml."""

from pathlib import Path

import pytest

from configs.schema.data import ArithmeticConfig
from experience.arithmetic import arithmetic_tables
from rewards.contract import RewardInput
from rewards.loading import load

SOLUTION = r"2+2-4=4-4=0 \boxed{0}"  # of 8-6+2-4=?
RULE = Path(__file__).parents[2] / "configs" / "recipes" / "right_steps.py"


def right_steps(response: str, solution: str = SOLUTION) -> float:
    function = load(f"{RULE}:right_steps", {}).function
    return function(RewardInput(prompt="", response=response, answer=None, columns={"response": solution}))


@pytest.mark.parametrize(
    ("response", "share"),
    [
        (SOLUTION, 1.0),
        (f" {SOLUTION} ", 1.0),
        (r"2+2-4=4-4=0 \boxed{1}", 0.75),
        (r"2+2-4=4-4=0", 0.75),
        (r"2+2-4=4-4=1 \boxed{1}", 0.5),
        (r"2+2-4=5-4=0 \boxed{0}", 0.25),
        (r"3+2-4=4-4=0 \boxed{0}", 0.0),  # right again after its mistake: the reward counts what comes before
        (r"\boxed{0}", 0.0),
        ("", 0.0),
        (rf"{SOLUTION} \boxed{{0}}", 0.8),
        (r"2+2-4=4-4=4-4=0 \boxed{0}", 0.4),
        (rf"{SOLUTION} and more", 0.75),
    ],
)
def test_what_is_right_before_the_first_mistake_counts(response: str, share: float) -> None:
    assert right_steps(response) == pytest.approx(share)


def test_every_solution_is_wholly_right() -> None:
    train, _ = arithmetic_tables(ArithmeticConfig(digits=1, steps=3, num_train=50, num_eval=5))
    assert all(right_steps(text, text) == 1.0 for text in train.column("response").to_pylist())
