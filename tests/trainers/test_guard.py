"""What the guard makes of its looks: gap, drift, the best look, and over-optimisation beyond noise."""

import json
import math
from collections.abc import Sequence

import numpy as np
import pytest

from trainers.guard import GuardState, Judgement, Look, judge

PROMPTS = 64


def look(step: int, *, gold: float, proxy: float, noise: float = 0.1, **others: float) -> Look:
    """Every prompt has a level of its own, which pairs cancel, and noise of this look."""
    generator = np.random.default_rng(step)
    levels = np.random.default_rng(1000).normal(0, 2, PROMPTS)
    means = {"gold": gold, "proxy": proxy, "length": 10.0, "repetition": 0.0, **others}
    columns = {name: (mean + levels + generator.normal(0, noise, PROMPTS)).tolist() for name, mean in means.items()}
    return Look(
        step=step, columns=columns, deviations={name: float(np.std(columns[name])) for name in ("proxy", "gold")}
    )


def judged(golds: Sequence[float], proxies: Sequence[float]) -> list[Judgement]:
    state, found = GuardState(), []
    for step, (gold, proxy) in enumerate(zip(golds, proxies, strict=True)):
        found.append(judge(state, look(10 * step, gold=gold, proxy=proxy)))
        state = found[-1].state
    return found


def test_gold_that_peaks_while_the_proxy_rises_is_found_and_counted() -> None:
    found = judged([0, 0.5, 1.0, 0.7, 0.4, 0.1], [0, 1, 2, 3, 4, 5])
    assert [judgement.is_over_optimised for judgement in found] == [False, False, False, True, True, True]
    assert [judgement.state.looks_below for judgement in found] == [0, 0, 0, 1, 2, 3]
    assert found[-1].metrics["guard/best_step"] == 20
    assert found[-1].metrics["guard/gold_since_best"] == pytest.approx(-0.9, abs=0.1)


def test_a_fall_within_noise_is_none() -> None:
    found = judged([0, 1.0, 0.99, 0.995, 0.99], [0, 1, 2, 3, 4])
    assert [judgement.state.looks_below for judgement in found] == [0] * 5


def test_where_both_fall_it_is_a_collapse() -> None:
    last = judged([0, 1.0, 0.5], [0, 3.0, 1.0])[-1]
    assert last.is_collapse
    assert not last.is_over_optimised
    assert last.state.looks_below == 0


def test_a_proxy_that_stands_still_is_over_optimised_all_the_same() -> None:
    assert judged([0, 1.0, 0.5], [0, 3.0, 3.0])[-1].is_over_optimised


def test_the_best_look_changes_only_beyond_noise_and_slow_progress_adds_up() -> None:
    golds = [0.01 * step for step in range(12)]  # a step is within the noise, five are not
    best = [judgement.metrics["guard/best_step"] for judgement in judged(golds, golds)]
    assert best[1] == 0
    assert best == sorted(best)
    assert best[-1] > 50


def test_gains_are_in_deviations_of_the_first_look_and_the_gap_is_their_difference() -> None:
    first, later = look(0, gold=0, proxy=0, noise=0), look(1, gold=1, proxy=4, noise=0)
    state = judge(GuardState(), first).state
    metrics = judge(state, later).metrics
    assert metrics["guard/gold_gain"] == pytest.approx(1 / first.deviations["gold"])
    assert metrics["guard/proxy_gain"] == pytest.approx(4 / first.deviations["proxy"])
    assert metrics["guard/gap"] == pytest.approx(metrics["guard/proxy_gain"] - metrics["guard/gold_gain"])
    assert metrics["guard/gap_low"] <= metrics["guard/gap"] <= metrics["guard/gap_high"]


def test_the_first_look_has_no_gap_and_no_drift() -> None:
    metrics = judge(GuardState(), look(0, gold=0.3, proxy=1.2)).metrics
    nothing = ("gold_gain", "proxy_gain", "gap", "length_drift", "repetition_drift", "gold_since_best")
    assert {metrics[f"guard/{name}"] for name in nothing} == {0.0}
    assert "guard/kl" not in metrics


def test_drift_and_divergence_are_told_with_their_intervals() -> None:
    state = judge(GuardState(), look(0, gold=0, proxy=0)).state
    metrics = judge(state, look(10, gold=0, proxy=0, length=25.0, repetition=0.5, kl=3.0)).metrics
    for name, value in (("length_drift", 15.0), ("repetition_drift", 0.5)):
        assert metrics[f"guard/{name}_low"] < value + 0.1
        assert metrics[f"guard/{name}"] == pytest.approx(value, abs=0.1)
        assert metrics[f"guard/{name}_high"] > value - 0.1
    assert metrics["guard/kl_low"] < metrics["guard/kl"] < metrics["guard/kl_high"]


def test_units_of_proxy_and_gold_change_no_decision_and_no_gap() -> None:
    def scaled(one: Look, factor: float) -> Look:
        columns = {name: [factor * v + 7 for v in values] for name, values in one.columns.items()}
        return Look(step=one.step, columns=columns, deviations={k: factor * v for k, v in one.deviations.items()})

    looks = [look(0, gold=0, proxy=0), look(1, gold=1, proxy=1), look(2, gold=0.5, proxy=2)]
    plain, other = GuardState(), GuardState()
    for one in looks:
        here, there = judge(plain, one), judge(other, scaled(one, 100.0))
        plain, other = here.state, there.state
        assert here.is_over_optimised == there.is_over_optimised
        assert there.metrics["guard/gap"] == pytest.approx(here.metrics["guard/gap"])


def test_the_order_of_prompts_changes_no_mean() -> None:
    order = np.random.default_rng(5).permutation(PROMPTS)

    def shuffled(one: Look) -> Look:
        columns = {name: [values[place] for place in order] for name, values in one.columns.items()}
        return Look(step=one.step, columns=columns, deviations=one.deviations)

    first, later = look(0, gold=0, proxy=0), look(1, gold=1, proxy=1)
    here = judge(judge(GuardState(), first).state, later)
    there = judge(judge(GuardState(), shuffled(first)).state, shuffled(later))
    means = [name for name in here.metrics if not name.endswith(("_low", "_high"))]
    assert {name: there.metrics[name] for name in means} == pytest.approx({name: here.metrics[name] for name in means})


def test_a_state_survives_json_and_decides_the_same() -> None:
    found = judged([0, 1.0, 0.5], [0, 1, 2])
    state = found[-1].state.acted()
    again = GuardState.from_json(json.loads(json.dumps(state.as_json())))
    assert again == state
    assert (again.looks_below, again.num_actions) == (0, 1)
    following = look(40, gold=0.2, proxy=3)
    assert judge(again, following).metrics == judge(state, following).metrics


def test_a_prompt_without_a_verdict_is_left_out_and_kept_as_such() -> None:
    first, later = look(0, gold=0, proxy=0), look(1, gold=1, proxy=1)
    broken = Look(step=1, columns={**later.columns, "gold": [math.nan, *later.columns["gold"][1:]]},
                  deviations=later.deviations)  # fmt: skip
    judgement = judge(judge(GuardState(), first).state, broken)
    assert judgement.metrics["guard/gold_since_best"] == pytest.approx(1, abs=0.1)
    again = GuardState.from_json(json.loads(json.dumps(judgement.state.as_json())))
    assert again.best is not None
    assert math.isnan(again.best.columns["gold"][0])


def test_gold_that_never_differed_at_first_is_measured_in_points() -> None:
    first = Look(step=0, columns={name: [0.0] * 20 for name in ("gold", "proxy", "length", "repetition")},
                 deviations={"gold": 0.0, "proxy": 0.0})  # fmt: skip
    later = Look(step=1, columns={**first.columns, "gold": [0.5] * 20}, deviations={"gold": 0.0, "proxy": 0.0})
    assert judge(judge(GuardState(), first).state, later).metrics["guard/gold_gain"] == 0.5
