"""Gold answers that cannot be compared with are a fault of the data, named with their row."""

from configs.schema.rewards import RewardPoolConfig, RewardSpec
from rewards.contract import RewardInput
from rewards.golds import unreadable_golds

LIMITS = RewardPoolConfig()


def rows(*golds: str | None, **columns: object) -> list[RewardInput]:
    return [RewardInput(prompt="", response="", answer=gold, columns=columns) for gold in golds]


def test_unreadable_golds_are_found_by_row() -> None:
    golds = ("42", r"\frac{1}{2}", "Evelyn", "so\n#### 7", r"x \geq 5", "", None, "   ", "!!!???")
    assert set(unreadable_golds(rows(*golds), [RewardSpec(use="math")], LIMITS)) == {5, 6, 7, 8}


def test_gsm8k_wants_numbers() -> None:
    assert set(unreadable_golds(rows("#### 7", "$1,000", "seven"), [RewardSpec(use="gsm8k")], LIMITS)) == {2}


def test_rewards_that_need_no_gold_have_no_unreadable_ones() -> None:
    assert unreadable_golds(rows(None, ""), [RewardSpec(use="length")], LIMITS) == {}


def test_a_gold_of_another_task_is_not_judged() -> None:
    assert unreadable_golds(rows("", task="chat"), [RewardSpec(use="math", task="math")], LIMITS) == {}
