"""Composition: weights, gates, vetoes, cascades; and what a step's verdicts say about the run."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from configs.schema.rewards import RewardPoolConfig, RewardSpec, check_rewards
from rewards.cache import VerdictCache
from rewards.composition import compose
from rewards.contract import RewardError, RewardInput, Score, Status
from rewards.golds import needs_golds
from rewards.health import check_failures, check_first_step, status_rates
from rewards.pool import RewardPool

MATH = RewardSpec(use="math")
FORMAT = RewardSpec(use="format", weight=0.1)


def item(response: str = "x", name: str = "r") -> RewardInput:
    return RewardInput(prompt="", response=response, answer=None, id=name)


def test_the_reward_is_the_weighted_sum_and_the_parts_are_kept_apart() -> None:
    score = compose([MATH, FORMAT], {"math": Score(value=1.0), "format": Score(value=1.0, parts={"tags": 0.5})})
    assert score == Score(value=1.1, parts={"math": 1.0, "format": 1.0, "format/tags": 0.5})


def test_a_gated_reward_counts_only_with_its_gate() -> None:
    gated = FORMAT.model_copy(update={"times": "math"})
    right = compose([MATH, gated], {"math": Score(value=1.0), "format": Score(value=1.0)})
    wrong = compose([MATH, gated], {"math": Score(value=0.0), "format": Score(value=1.0)})
    assert (right.value, wrong.value) == (1.1, 0.0)


def test_a_veto_replaces_the_whole_reward() -> None:
    veto = RewardSpec(use="blocklist", weight=0.0, veto_below=1.0, veto_reward=-1.0)
    bad = compose([MATH, veto], {"math": Score(value=1.0), "blocklist": Score(value=0.0)})
    good = compose([MATH, veto], {"math": Score(value=1.0), "blocklist": Score(value=1.0)})
    assert (bad.value, bad.detail, good.value) == (-1.0, "vetoed by blocklist", 1.0)


@pytest.mark.parametrize(("raw", "expected"), [(10.0, 1.0), (3.0, 0.5), (-50.0, -1.0)])
def test_a_learned_reward_is_normalised_then_clipped(raw: float, expected: float) -> None:
    spec = RewardSpec(use="math", mean=2.0, std=2.0, clip=(-1.0, 1.0))
    assert compose([spec], {"math": Score(value=raw)}).value == expected


@pytest.mark.parametrize("status", [Status.TIMEOUT, Status.MEMORY, Status.ERROR])
def test_one_failure_leaves_the_sample_unscored(status: Status) -> None:
    failed = Score(value=None, status=status, detail="why")
    score = compose([MATH, FORMAT], {"math": Score(value=1.0), "format": failed})
    assert (score.value, score.status, score.detail) == (None, status, "format: why")


def test_abstaining_rewards_are_left_out_and_all_abstaining_is_unscored() -> None:
    abstain = Score(value=None, status=Status.ABSTAIN)
    assert compose([MATH, FORMAT], {"math": abstain, "format": Score(value=1.0)}).value == 0.1
    assert compose([MATH, FORMAT], {"math": abstain, "format": abstain}).status is Status.ABSTAIN


def test_a_missing_answer_is_worth_nothing_and_says_so() -> None:
    score = compose([MATH], {"math": Score(value=0.0, status=Status.NO_ANSWER, detail="no box")})
    assert score == Score(value=0.0, status=Status.NO_ANSWER, detail="math: no box", parts={"math": 0.0})


@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), min_size=1, max_size=5))
def test_the_sum_is_that_of_a_slow_obvious_version(pairs: list[tuple[float, float]]) -> None:
    specs = [RewardSpec(use="math", name=str(at), weight=weight) for at, (weight, _) in enumerate(pairs)]
    verdicts = {str(at): Score(value=value) for at, (_, value) in enumerate(pairs)}
    assert compose(specs, verdicts).value == pytest.approx(sum(weight * value for weight, value in pairs))


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ([MATH, MATH], "two rewards are called 'math'"),
        ([MATH.model_copy(update={"weight": 0.0})], "every reward has weight 0"),
        (
            [MATH, FORMAT.model_copy(update={"times": "maths"})],
            r"times='maths' is no other reward; choose one of \['math'\]",
        ),
        ([FORMAT.model_copy(update={"times": "format"})], "times='format' is no other reward"),
        ([FORMAT.model_copy(update={"instead_of": "math"}), MATH], "must name a reward above it"),
    ],
)
def test_rewards_that_cannot_be_combined_are_refused(specs: list[RewardSpec], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_rewards(specs)


@pytest.mark.parametrize(
    "fields", [{"weight": float("nan")}, {"weight": float("inf")}, {"std": 0.0}, {"clip": (1.0, 0.0)}]
)
def test_a_spec_with_impossible_numbers_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RewardSpec.model_validate({"use": "math", **fields})


FAILED = Score(value=None, status=Status.TIMEOUT, detail="math: slow")
RIGHT, WRONG = Score(value=1.0), Score(value=0.0)
NONE = Score(value=0.0, status=Status.NO_ANSWER, detail="math: no box")


def test_failures_up_to_the_limit_are_suffered_and_beyond_it_stop_the_run() -> None:
    items = [item(name=str(at)) for at in range(100)]
    check_failures(items, [FAILED] + [RIGHT] * 99, max_error_rate=0.01)
    with pytest.raises(RewardError, match=r"2 of 100 samples .*2 timeout.*=0\.01 allows; the first is 3: math: slow"):
        check_failures(items, [RIGHT] * 3 + [FAILED] * 2 + [RIGHT] * 95, max_error_rate=0.01)


def test_refusals_and_missing_answers_are_no_failures() -> None:
    check_failures([item()] * 2, [NONE, Score(value=0.0, status=Status.REFUSED)], max_error_rate=0.0)


def test_a_first_step_without_answers_stops_the_run_and_shows_a_response() -> None:
    with pytest.raises(RewardError, match=r"100% of the first 4 responses hold no answer \(math: no box\).*'I say 42'"):
        check_first_step([item("I say 42")] * 4, [NONE] * 4)
    check_first_step([item()] * 4, [NONE] * 3 + [RIGHT])


def test_a_first_step_of_equal_rewards_warns_with_three_responses(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_first_step([item(text) for text in "abcd"], [WRONG] * 4)
    assert caplog.messages == ["every reward of the first step is 0.0, which teaches nothing: 'a'; 'b'; 'c'"]


def test_the_rates_of_all_statuses_sum_to_one() -> None:
    rates = status_rates([RIGHT, NONE, FAILED, RIGHT])
    assert rates["ok"] == 0.5
    assert set(rates) == {status.value for status in Status}
    assert sum(rates.values()) == 1.0


def test_the_cache_remembers_verdicts_but_no_failures() -> None:
    cache = VerdictCache(("response",))
    cache.learn(item("a"), RIGHT)
    cache.learn(item("b"), FAILED)
    assert cache.recall(item("a", name="another")) is RIGHT
    assert cache.recall(item("b")) is None
    assert VerdictCache(()).recall(item("a")) is None


def test_a_reward_model_has_a_name_and_takes_no_args() -> None:
    spec = RewardSpec(use="model:/models/taste")
    assert (spec.label, spec.model_path) == ("model", "/models/taste")
    assert RewardSpec(use="./file.py:model").model_path is None
    with pytest.raises(ValueError, match="a reward model takes no args and no timeout; see reward_model"):
        RewardSpec(use="model:/models/taste", args={"dtype": "bfloat16"})


def test_a_reward_model_without_anybody_to_ask_is_refused() -> None:
    with pytest.raises(RewardError, match="reward models are not loaded here; serve it with"):
        RewardPool([RewardSpec(use="model:/models/taste")], RewardPoolConfig())


def test_only_what_compares_with_a_gold_answer_needs_one() -> None:
    assert not needs_golds([RewardSpec(use="length"), RewardSpec(use="model:/models/taste")])
    assert needs_golds([RewardSpec(use="math"), RewardSpec(use="model:/models/taste")])
