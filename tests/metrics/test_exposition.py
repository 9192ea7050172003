"""What Prometheus is told has sound names, one meaning each."""

import re

import pytest

from metrics.exposition import COUNTED, LIVE, exposed_metric, known_series
from metrics.names import TABLE


def test_a_metric_of_a_step_keeps_its_name_and_says_its_unit() -> None:
    exposed, labels = exposed_metric("policy/kl_ref")
    assert (exposed.series, labels) == ("ray_wutong_policy_kl_ref", {})
    assert exposed.meaning == "KL divergence from the reference policy, mean over response tokens [nats]"


@pytest.mark.parametrize(
    ("name", "series", "labels"),
    [
        ("time/train", "ray_wutong_time_seconds", {"part": "train"}),
        ("share/other", "ray_wutong_share", {"part": "other"}),
        ("reward/my_rules.py:brevity", "ray_wutong_reward", {"part": "my_rules.py:brevity"}),
        ("reward/mean", "ray_wutong_reward_mean", {}),
        ("speed/rollout-3", "ray_wutong_speed", {"worker": "rollout-3"}),
        ("score/timeout", "ray_wutong_score_total", {"status": "timeout"}),
    ],
)
def test_families_and_parts_of_a_step_become_labels(name: str, series: str, labels: dict[str, str]) -> None:
    exposed, found = exposed_metric(name)
    assert (exposed.series, found) == (series, labels)
    assert exposed.labels == tuple(labels)


def test_counts_of_a_step_are_counters() -> None:
    assert set(TABLE) > COUNTED
    assert exposed_metric("group/dropped")[0].series == "ray_wutong_group_dropped_total"


def test_no_two_things_share_a_series() -> None:
    rows = {exposed_metric(re.sub("[<>]", "", name))[0].series for name in TABLE}
    parts = sum(name.startswith(("time/", "share/")) for name in TABLE)  # each a label of one of two series
    assert len(rows) == len(TABLE) - parts + 2
    live = {each.series for each in LIVE}
    assert len(live) == len(LIVE)
    assert not rows & live
    assert known_series().keys() == rows | live


def test_names_and_labels_are_ones_that_prometheus_takes() -> None:
    for each in known_series().values():
        assert re.fullmatch(r"wutong_[a-z_0-9]+", each.name)
        assert not each.name.endswith("_total")  # Ray adds it
        assert all(re.fullmatch(r"[a-z_]+", label) for label in each.labels)
        assert each.meaning


def test_a_name_outside_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match=r"is not in metrics/names\.py"):
        exposed_metric("policy/los")
