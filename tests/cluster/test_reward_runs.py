"""Rewards in whole runs: a rule beside a reward model, and a user's own file."""

from pathlib import Path

import pytest

from cluster.launch import launch
from experience.store import read_trajectories
from tests.actors.tiny_policies import make_policy
from tests.actors.tiny_reward_models import make_reward_model
from tests.cluster.tiny_recipes import recipe

pytestmark = pytest.mark.usefixtures("cluster")


def test_a_run_is_rewarded_by_a_rule_and_by_a_model(tmp_path: Path) -> None:
    """Every sample has the verdict of both; the reward is their weighted sum."""
    rule = tmp_path / "my_rules.py"
    rule.write_text("def brevity(item, target): return min(1.0, target / max(1, len(item.response)))")
    rewards = [
        {"use": f"{rule}:brevity", "args": {"target": 8}},
        {"use": f"model:{make_reward_model(tmp_path / 'taste')}", "weight": 0.5, "name": "taste"},
    ]
    model = {"path": str(make_policy(tmp_path / "policy"))}
    outcome = launch(recipe("rl", tmp_path, model=model, rewards=rewards, num_steps=1, evaluation={"num_prompts": 2}))
    assert outcome.is_finished
    rows = read_trajectories(outcome.folder / "trajectories" / "step_000001.parquet").to_pylist()
    assert len(rows) == 8
    for row in rows:
        parts = dict(row["reward_parts"])
        assert row["reward"] == pytest.approx(parts["brevity"] + 0.5 * parts["taste"], abs=1e-5)
        assert row["status"] == "ok"
    assert len({dict(row["reward_parts"])["taste"] for row in rows}) > 1


def test_a_reward_model_that_is_not_there_stops_the_run_before_it_starts(tmp_path: Path) -> None:
    model = {"path": str(make_policy(tmp_path / "policy"))}
    with pytest.raises(ValueError, match=r"rewards: model: model:.*none: not a folder"):
        launch(recipe("rl", tmp_path, model=model, rewards=[{"use": f"model:{tmp_path}/none"}]))
