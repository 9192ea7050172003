"""Each rule speaks on a series that shows what it looks for, and is silent on one that does not."""

from collections.abc import Callable, Mapping, Sequence

import pytest

from reports import fleet_rules as fleet
from reports import policy_rules as policy
from reports import signal_rules as signal
from reports.curves import Curves, Finding
from reports.findings import RULES, findings
from reports.run_data import Series

Values = Mapping[str, Sequence[float | None]]


def curves(values: Values) -> Curves:
    return {
        name: Series(name=name, steps=tuple(range(1, len(column) + 1)), values=tuple(column))
        for name, column in values.items()
    }


def line(begin: float, end: float, count: int = 40) -> list[float]:
    """A straight way from `begin` to `end` with a little scatter."""
    return [begin + (end - begin) * i / (count - 1) + 0.01 * (end - begin or 1) * (-1) ** i for i in range(count)]


def scatter(value: float, size: float, count: int = 40) -> list[float]:
    return [value + size * ((i * 7919) % 11 - 5) / 5 for i in range(count)]


Case = tuple[Callable[[Curves], Finding | None], Values, str, list[Values]]

CASES: list[Case] = [
    (
        fleet.workers_slow,
        {"slowness/rollout-0": [1.0] * 10, "slowness/rollout-1": [1.0] * 5 + [9.0] * 5},
        "An engine step of rollout-1 takes 9 times the others'",
        [{"slowness/rollout-0": [1.0] * 10}, {"slowness/rollout-1": [9.0] * 3}],
    ),
    (
        fleet.workers_idle,
        {"rollout/idle_fraction": [0.8] * 10},
        "80% of the latest steps",
        [{"rollout/idle_fraction": [0.4] * 10}],
    ),
    (
        fleet.workers_replaced,
        {"rollout/restarts": [0.0, 0.0, 1.0, 3.0]},
        "3 of their processes were lost",
        [{"rollout/restarts": [0.0] * 10}],
    ),
    (
        policy.entropy_collapse,
        {"policy/entropy": line(1.0, 0.02)},
        "fell from 0.912 to 0.108",
        [{"policy/entropy": line(1.0, 0.5)}, {"policy/entropy": line(0.04, 0.001)}, {"policy/entropy": [1.0, 0.0]}],
    ),
    (
        signal.reward_flat,
        {"reward/mean": scatter(0.3, 0.1)},
        "after 40 steps",
        [{"reward/mean": line(0.2, 0.6)}, {"reward/mean": scatter(0.3, 0.1, 10)}],
    ),
    (
        signal.reward_falls,
        {"reward/mean": line(0.6, 0.2)},
        "from 0.564 to 0.236",
        [{"reward/mean": line(0.2, 0.6)}, {"reward/mean": scatter(0.3, 0.1)}],
    ),
    (
        signal.reward_rises,
        {"reward/mean": line(0.2, 0.6)},
        "from 0.236 to 0.564",
        [{"reward/mean": line(0.6, 0.2)}, {"reward/mean": scatter(0.3, 0.1)}],
    ),
    (
        signal.held_out_moves,
        {"eval/accuracy": [0.3, 0.6], "eval/accuracy_low": [0.25, 0.55], "eval/accuracy_high": [0.35, 0.65]},
        "from 30.0% (25.0% to 35.0%) at step 1 to 60.0% (55.0% to 65.0%) at step 2",
        [
            {"eval/accuracy": [0.3, 0.36], "eval/accuracy_low": [0.25, 0.3], "eval/accuracy_high": [0.35, 0.41]},
            {"eval/accuracy": [0.3, 0.6]},
        ],
    ),
    (
        signal.over_optimised,
        {
            "guard/looks_below": [0.0, 0.0, 1.0, 2.0],
            "guard/best_step": [1.0, 2.0, 2.0, 2.0],
            "guard/actions": [0.0, 0.0, 0.0, 1.0],
            "guard/gold_since_best": [0.0, 0.1, -0.1, -0.2],
            "guard/gold_since_best_low": [0.0, 0.0, -0.2, -0.3],
            "guard/gold_since_best_high": [0.0, 0.2, -0.01, -0.1],
            "guard/proxy_since_best": [0.0, 0.1, 0.3, 0.5],
            "guard/proxy_since_best_low": [0.0, 0.0, 0.2, 0.4],
            "guard/proxy_since_best_high": [0.0, 0.2, 0.4, 0.6],
        },
        "At step 4 gold had changed by -0.2 (-0.3 to -0.1) since the best look, step 2, and the proxy by +0.5 "
        "(+0.4 to +0.6); 95 % intervals over the same prompts. The guard has acted 1 times by then.",
        [{"guard/looks_below": [0.0] * 5, "guard/best_step": [0.0] * 5}],
    ),
    (signal.groups_equal, {"group/equal_fraction": [0.9] * 20}, "90% of the groups of the last 4 steps", [
        {"group/equal_fraction": [0.3] * 20}, {"group/equal_fraction": [0.9] * 12 + [0.1] * 8},
    ]),
    (signal.groups_dropped, {"group/dropped": [5.0] * 10}, "5.0 groups a step, 50 in all", [
        {"group/dropped": [0.0] * 10},
    ]),
    (policy.mismatch_grows, {"mismatch/kl": line(1e-4, 1e-2)}, "mismatch/kl grew from", [
        {"mismatch/kl": line(1e-7, 1e-5)}, {"mismatch/kl": scatter(0.01, 0.001)},
    ]),
    (policy.kl_runs_away, {"policy/kl_ref": [0.01 * 1.15**i for i in range(40)]}, "nats a token", [
        {"policy/kl_ref": line(0.0, 0.2)}, {"policy/kl_ref": [0.6] * 40},
    ]),
    (signal.no_answers, {"score/ok": [10.0] * 10, "score/no_answer": [30.0] * 10}, "75% of the samples", [
        {"score/ok": [30.0] * 10, "score/no_answer": [10.0] * 10}, {"score/ok": [0.0] * 10},
    ]),
    (signal.verdicts_fail, {"score/ok": [90.0] * 10, "score/timeout": [10.0] * 10}, "10.0% of the samples", [
        {"score/ok": [1000.0] * 10, "score/timeout": [1.0] * 10},
    ]),
    (signal.many_truncated, {"response/truncated_fraction": line(0.0, 0.6)}, "reached the length limit", [
        {"response/truncated_fraction": [0.1] * 20},
    ]),
    (signal.length_explodes, {"response/length_mean": line(40, 200)}, "tokens", [
        {"response/length_mean": line(40, 60)},
    ]),
    (
        policy.much_clipped,
        {"policy/clip_fraction_low": [0.15] * 10, "policy/clip_fraction_high": [0.15] * 10},
        "30% of the response tokens",
        [{"policy/clip_fraction_low": [0.05] * 10, "policy/clip_fraction_high": [0.05] * 10}, {}],
    ),
    (policy.updates_skipped, {"optimizer/skipped_steps": [0.0, 2.0]}, "2 updates", [
        {"optimizer/skipped_steps": [0.0, 0.0]},
    ]),
    (policy.not_finite, {"policy/loss": [0.1, None], "reward/mean": [1.0, 1.0]}, "at step 2: policy/loss.", [
        {"policy/loss": [0.1, 0.2]},
    ]),
    (policy.critic_is_blind, {"value/explained_variance": [-0.5] * 10}, "is -0.5 at the end", [
        {"value/explained_variance": line(-0.5, 0.6)},
    ]),
    (policy.held_out_loss_turns, {"eval/loss": [2.0, 1.0, 1.2]}, "lowest at step 2 (1), and is 1.2 at step 3", [
        {"eval/loss": [2.0, 1.0, 1.02]}, {"eval/loss": [1.0, 2.0]},
    ]),
    (
        policy.one_phase_takes_the_time,
        {"time/step": [10.0] * 3, "time/generate": [8.0] * 3, "time/train": [2.0] * 3},
        "24 of 30 s of all steps (80%)",
        [{"time/step": [10.0], "time/generate": [5.0], "time/train": [5.0]}, {"time/step": [1.0], "time/train": [1.0]}],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "shown", "evidence", "_quiet"), CASES, ids=[case[0].__name__ for case in CASES])
def test_a_rule_speaks_with_its_evidence(
    rule: Callable[[Curves], Finding | None], shown: Values, evidence: str, _quiet: list[Values]
) -> None:
    finding = rule(curves(shown))
    assert finding is not None
    assert evidence in finding.evidence


@pytest.mark.parametrize(
    ("rule", "quiet"), [(case[0], quiet) for case in CASES for quiet in case[3]],
    ids=[f"{case[0].__name__}-{number}" for case in CASES for number, _ in enumerate(case[3])],
)  # fmt: skip
def test_a_rule_is_silent_where_there_is_nothing(rule: Callable[[Curves], Finding | None], quiet: Values) -> None:
    assert rule(curves(quiet)) is None


def test_every_rule_has_a_case_and_none_speaks_without_metrics() -> None:
    assert {rule.__name__ for rule in RULES} == {case[0].__name__ for case in CASES}
    assert findings({}) == []


def test_bad_news_come_first() -> None:
    found = findings(curves({"reward/mean": line(0.2, 0.6), "group/equal_fraction": [0.9] * 20}))
    assert [finding.tone for finding in found] == ["bad", "good"]
