"""What is handed to a contestant without wutong's packages, and the problems of the long-tailed case."""

import ast
from pathlib import Path
from statistics import fmean

import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from benchmarks import models
from benchmarks.contest.cases import CASES, RECIPE, data_settings
from benchmarks.contest.work import work_of
from configs.load import load_run
from configs.schema import RlRun
from configs.schema.model import TokenizerConfig
from experience.tokenizer import build_tokenizer

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tokenizer_folder(tmp_path: Path) -> Path:
    build_tokenizer(TokenizerConfig(kind="characters"), ()).save_pretrained(tmp_path / "policy")
    return tmp_path / "policy"


def test_work_has_the_prompts_of_every_step_and_its_learning_rate(tokenizer_folder: Path) -> None:
    settings = ["num_steps=3", "rollout.prompts_per_step=4", "data.arithmetic.num_train=20"]
    run = load_run(RECIPE, [f"model.path={tokenizer_folder}", "data.arithmetic.num_eval=4", *settings])
    assert isinstance(run, RlRun)
    work = work_of(run)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    assert len(work["prompts"]) == len(work["answers"]) == 12
    assert tokenizer(text=work["prompts"])["input_ids"] == work["prompt_tokens"]
    assert work["learning_rates"] == pytest.approx([1e-4 / 3, 2e-4 / 3, 1e-4])
    assert work["rows_per_micro_batch"] == 32


def test_the_mixed_problems_have_a_long_tail(tmp_path: Path) -> None:
    models.write_mixture(tmp_path)
    lengths = [len(each) for each in pq.read_table(tmp_path / "mixed.parquet")["response"].to_pylist()]
    assert max(lengths) > 4 * fmean(lengths)
    assert max(lengths) < 256
    assert data_settings("tailed", tmp_path)[1] == f"data.train={tmp_path}/mixed.parquet"


@pytest.mark.parametrize("name", CASES)
def test_every_stage_of_a_case_is_a_recipe(name: str, tmp_path: Path) -> None:
    stages = [load_run(recipe, settings) for recipe, _, settings in models.stages(CASES[name], tmp_path)]
    run = load_run(RECIPE, CASES[name].settings(tmp_path))
    assert [each.stage for each in (*stages, run)] == ["pretrain", "sft", "rl"]
    assert stages[1].model.path == str(tmp_path / CASES[name].size / "pretrain" / "export")


def test_a_policy_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    (tmp_path / "1m" / "short" / "export").mkdir(parents=True)
    assert models.make(CASES["1m-short"], tmp_path) == tmp_path / "1m" / "short" / "export"


def test_the_script_for_another_environment_imports_nothing_of_ours() -> None:
    tree = ast.parse((ROOT / "benchmarks" / "trl_grpo.py").read_text())
    modules = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    modules += [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    ours = {path.parent.name for path in ROOT.glob("*/__init__.py")} | {"benchmarks", "tests"}
    assert "trl" in modules
    assert not ours & {name.partition(".")[0] for name in modules}
