"""Proxy and gold against the distance, with the law that was put in."""

import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from reports.guard_panel import guard_panel
from reports.page import render
from reports.run_data import read_run
from tests.reports.made_runs import make_run

ALPHA, BETA = 1.0, 0.5


def looked(step: int, *, with_kl: bool = True) -> Mapping[str, float]:
    """A look every 5 steps, whose gold follows the law; else nothing of the guard's."""
    if step % 5:
        return {"reward/mean": 0.5}
    d = 0.2 * step
    gains = {"gold": d * (ALPHA - BETA * math.log(d)), "proxy": d}
    found = {"guard/best_step": 5.0, "guard/looks_below": 0.0, "guard/actions": 0.0}
    for name, gain in gains.items():
        found |= {
            f"guard/{name}_gain": gain,
            f"guard/{name}_gain_low": gain - 0.1,
            f"guard/{name}_gain_high": gain + 0.1,
        }
    return found | ({"guard/kl": d * d} if with_kl else {})


def test_the_law_that_gold_follows_is_fitted_and_told(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path, num_steps=40, stored=(), metrics=looked))
    panel = guard_panel(run)
    assert panel is not None
    assert panel.law is not None
    assert (panel.law.alpha, panel.law.beta) == pytest.approx((ALPHA, BETA))
    assert [point.step for point in panel.curves["gold"]] == list(range(5, 45, 5))
    assert "alpha = 1 ±" in panel.meaning
    assert f"its peak is {BETA * math.e:.3g} at d = {math.e:.3g}" in panel.meaning
    page = render([run])
    assert "Over-optimisation: made" in page
    assert "law of gold, fitted" in page


def test_few_looks_are_drawn_without_a_law(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path, num_steps=10, stored=(), metrics=looked))
    panel = guard_panel(run)
    assert panel is not None
    assert panel.law is None
    assert "Too few looks" in panel.meaning
    assert "Over-optimisation: made" in render([run])


def test_looks_without_a_distance_have_charts_alone(tmp_path: Path) -> None:
    made = make_run(tmp_path, num_steps=20, stored=(), metrics=lambda step: looked(step, with_kl=False))
    run = read_run(made)
    assert guard_panel(run) is None
    page = render([run])
    assert "Gold since the first look" in page
    assert "Over-optimisation: made" not in page
