"""Every recipe of a single stage loads as it stands."""

from collections import Counter
from pathlib import Path

import pytest

from configs.load import dump_run, load_run

FOLDER = Path(__file__).resolve().parents[2] / "configs"
RECIPES = sorted(
    path for path in FOLDER.rglob("*.yaml") if FOLDER / "recipes" not in path.parents
)  # those: test_staged.py


def test_there_are_recipes() -> None:
    assert {path.stem for path in RECIPES} >= {"pretrain", "sft", "grpo"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_a_recipe_and_its_overrides_survive_being_written_out(path: Path, tmp_path: Path) -> None:
    overrides = ["num_steps=7", "output_dir=./some where", "optimizer.learning_rate=3e-5", "trainer.zero_stage=2"]
    run = load_run(path, overrides)
    assert (run.num_steps, run.output_dir) == (7, "./some where")
    assert (run.optimizer.learning_rate, run.trainer.zero_stage) == (3e-5, 2)
    resolved = tmp_path / "config.yaml"
    resolved.write_text(dump_run(run), encoding="utf-8")
    assert load_run(resolved) == run


def test_no_two_recipes_would_share_a_folder() -> None:
    names = Counter(load_run(path).name for path in RECIPES)
    assert [name for name, count in names.items() if count > 1] == []
