"""The hostile suite: every answer in it is wrong, and none may cost more than its own verdict."""

import os
import time
from pathlib import Path

import psutil
import pytest

from configs.schema.rewards import RewardPoolConfig, RewardSpec
from rewards.contract import RewardInput, Status
from rewards.hostile import HOSTILE_GOLD, hostile_answers
from rewards.pool import RewardPool

ANSWERS = list(hostile_answers())
PLANTED = Path("/tmp/wutong_pwned")


def sample(name: str, response: str) -> RewardInput:
    return RewardInput(prompt="", response=response, answer=HOSTILE_GOLD, id=name)


def test_the_suite_is_large_and_its_answers_differ() -> None:
    assert len(ANSWERS) >= 150
    assert len({response for _, response in ANSWERS}) == len(ANSWERS)


@pytest.mark.parametrize("marker", ["boxed", "raw", "answer_is"])
def test_no_hostile_answer_is_right_slow_or_an_exception(marker: str) -> None:
    """Each verdict alone on the clock: within 2 s, 1 GiB, and with a process to spare afterwards."""
    PLANTED.unlink(missing_ok=True)
    pool = RewardPool([RewardSpec(use="math", args={"marker": marker})], RewardPoolConfig(memory_gib=1))
    pool.start()
    seconds, verdicts = {}, {}
    for name, response in ANSWERS:
        started = time.monotonic()
        verdicts[name] = pool.score_blocking([sample(name, response)])[0]
        seconds[name] = time.monotonic() - started
    after = pool.score_blocking([sample("fine", r"The answer is \boxed{42}")])
    (keeper,) = [child for child in psutil.Process(os.getpid()).children() if "rewards.keeper" in str(child.cmdline())]
    workers = keeper.children()
    pool.close()
    assert {name for name, score in verdicts.items() if score.value == 1.0} == set()
    assert {name: score.detail for name, score in verdicts.items() if score.status is Status.ERROR} == {}
    assert {name: took for name, took in seconds.items() if took > 2} == {}
    assert after[0].value == 1.0
    assert len(workers) == 1
    assert not PLANTED.exists()


def test_no_rule_fails_on_a_hostile_answer() -> None:
    plain = ("gsm8k", "number", "format", "language", "repetition", "length")
    specs = [RewardSpec(use=name) for name in plain] + [RewardSpec(use="blocklist", args={"words": ["bomb"]})]
    pool = RewardPool(specs, RewardPoolConfig(memory_gib=1))
    pool.start()
    PLANTED.unlink(missing_ok=True)
    scores = pool.score_blocking([sample(name, response) for name, response in ANSWERS])
    pool.close()
    assert not PLANTED.exists()
    assert {name: s.detail for (name, _), s in zip(ANSWERS, scores, strict=True) if s.status.is_failure} == {}
