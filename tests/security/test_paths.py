"""Promise 12: nothing that a recipe or a data set says leads out of the run's folder, and no link in it is followed."""

from pathlib import Path
from typing import Any

import pytest

from cluster.folder import RunFolder
from configs.load import ConfigError, load_run
from tests.cluster.tiny_recipes import recipe
from trainers import checkpoint
from trainers.checkpoint import CheckpointError

RECIPE = Path(__file__).parents[2] / "configs" / "arithmetic" / "pretrain.yaml"


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "-rf", ".hidden", "a\x00b", "n" * 300, "a\nb", ""])
def test_no_name_leads_out_of_the_output_folder(name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        load_run(RECIPE, [f'name="{name}"'.replace("\n", "\\n").replace("\x00", "\\0")])


def opened(folder: RunFolder) -> Any:
    with folder.opened(resume=True):
        return folder


@pytest.mark.parametrize("place", ["", "checkpoints", "trajectories", "export", "data", "metrics.jsonl", "lock"])
def test_a_link_in_a_runs_folder_is_refused_and_what_it_leads_to_stays(tmp_path: Path, place: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder = RunFolder(recipe("pretrain", tmp_path / "runs"))
    (folder.path / place).parent.mkdir(parents=True)
    (folder.path / place).symlink_to(elsewhere)
    with pytest.raises(ValueError, match=r": a symbolic link, through which a run would write elsewhere"):
        opened(folder)
    assert list(elsewhere.iterdir()) == []


def test_an_output_folder_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "disk")
    assert opened(RunFolder(recipe("pretrain", tmp_path / "runs"))).path == tmp_path / "disk" / "pretrain"


def test_a_link_for_a_checkpoint_is_none(tmp_path: Path) -> None:
    root = tmp_path / "checkpoints"
    folder = checkpoint.folder_of(root, 1)
    checkpoint.commit(checkpoint.begin(folder), folder, checkpoint.Written(world_size=1, config_digest=""))
    folder.rename(tmp_path / "step_000001")
    folder.symlink_to(tmp_path / "step_000001")
    with pytest.raises(CheckpointError, match="a symbolic link; checkpoints are plain folders"):
        checkpoint.verify(folder)
