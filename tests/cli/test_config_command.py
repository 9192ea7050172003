"""`wutong config` prints a recipe that loads again, and names every key."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cli.config import config
from configs.errors import ConfigError
from configs.keys import ALL_STAGES, all_keys, keys_of
from configs.load import load_run

RECIPE = "stage: sft\nname: x\nnum_steps: 2\nmodel: {path: a}\ndata: {train: b.jsonl}\n"


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(config)
    return app


def test_what_is_printed_loads_to_the_same_run(app: typer.Typer, tmp_path: Path) -> None:
    recipe, resolved = tmp_path / "run.yaml", tmp_path / "resolved.yaml"
    recipe.write_text(RECIPE)
    result = CliRunner().invoke(app, [str(recipe), "optimizer.learning_rate=3e-4", "seed=5"])
    assert result.exit_code == 0
    resolved.write_text(result.stdout)
    run = load_run(resolved)
    assert run == load_run(recipe, ["optimizer.learning_rate=3e-4", "seed=5"])
    assert (run.optimizer.learning_rate, run.seed) == (3e-4, 5)


def test_the_schema_lists_every_key_of_every_stage(app: typer.Typer) -> None:
    result = CliRunner().invoke(app, ["--schema"])
    assert result.exit_code == 0
    listed = {line.split()[0] for line in result.stdout.splitlines() if line[:1].strip()}
    assert listed == {"key"} | {path for stage in ALL_STAGES for path in keys_of(stage)}


def test_every_key_says_what_it_means() -> None:
    assert [key.path for key in all_keys(ALL_STAGES).values() if not key.description] == []


def test_neither_a_recipe_nor_the_schema_is_wrong_usage(app: typer.Typer) -> None:
    assert CliRunner().invoke(app, []).exit_code == 2


def test_a_wrong_recipe_raises_its_problems(app: typer.Typer, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(RECIPE)
    result = CliRunner().invoke(app, [str(tmp_path / "run.yaml"), "seed=x"])
    assert isinstance(result.exception, ConfigError)
