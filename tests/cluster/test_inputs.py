"""Recipes that do not fit are refused before anything is started."""

from pathlib import Path

import pytest

from cluster.folder import RunFolder
from cluster.reinforce import read_inputs
from configs.schema import RlRun
from tests.cluster.tiny_recipes import recipe


def test_reinforcement_learning_needs_a_checkpoint(tmp_path: Path) -> None:
    run = recipe("rl", tmp_path, model={"new": {}})
    assert isinstance(run, RlRun)
    with pytest.raises(ValueError, match=r"set model\.path"):
        read_inputs(run, RunFolder(run))
