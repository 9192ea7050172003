"""Recipes that name what does not exist yet, or does not fit, are refused before anything is started."""

from pathlib import Path

import pytest

from cluster.folder import RunFolder
from cluster.reinforce import read_inputs
from configs.schema import RlRun
from tests.cluster.tiny_recipes import recipe


@pytest.mark.parametrize("name", ["ppo", "reinforce_pp", "remax"])
def test_an_algorithm_whose_parts_are_missing_is_refused(name: str, tmp_path: Path) -> None:
    run = recipe("rl", tmp_path, algorithm={"name": name})
    assert isinstance(run, RlRun)
    with pytest.raises(ValueError, match=f"algorithm.name='{name}'"):
        read_inputs(run, RunFolder(run))


def test_reinforcement_learning_needs_a_checkpoint(tmp_path: Path) -> None:
    run = recipe("rl", tmp_path, model={"new": {}})
    assert isinstance(run, RlRun)
    with pytest.raises(ValueError, match=r"set model\.path"):
        read_inputs(run, RunFolder(run))
