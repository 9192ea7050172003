"""What `wutong evaluate` refuses, before a process or a device is taken."""

import json
from pathlib import Path

import pytest
import ray
from typer.testing import CliRunner

from cli.main import app
from cluster.evaluation_inputs import EvaluationRequest, examinees
from configs.schema import ClusterConfig, DataConfig, ModelConfig, RewardSpec, RolloutConfig, SamplingConfig
from tests.actors.tiny_policies import make_policy


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refusals")
    for seed, name in enumerate(("model", "other")):
        make_policy(folder / name, seed=seed)
    for name in ("easy", "hard"):
        rows = [{"prompt": f"{name} {row}", "answer": str(row)} for row in range(3)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "old").mkdir()
    (folder / "old" / "results.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["model", "easy.jsonl", "easy.jsonl"], "DATA=easy.jsonl: given twice"),
        (["model", "easy.jsonl", "nowhere.jsonl"], "nowhere.jsonl"),
        (["model", "easy.jsonl", "--against", "nowhere"], "--against=nowhere: not a folder"),
        (["model", "easy.jsonl", "--against", "./model"], "the model itself"),
        (["model", "easy.jsonl", "--marker", "box"], "marker='box': unknown; choose one of boxed"),
        (["model", "easy.jsonl", "--reward", "gsm8k", "--marker", "boxed"], "reads hashes and nothing else"),
        (["model", "easy.jsonl", "--max-response-tokens", "8", "--reward-model", "other"], "reward_model"),
        (["model", "easy.jsonl", "--tensor-parallel-size", "3"], "heads can't be shared evenly; choose one of 1, 2"),
        (["model", "easy.jsonl", "--out", "old"], "--out=old: holds the results of another evaluation"),
    ],
)
def test_wrong_input_is_told_in_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(app, ["evaluate", *arguments])
    assert isinstance(result.exception, ValueError)
    assert said in str(result.exception)
    assert "\n" not in str(result.exception)
    assert not ray.is_initialized()


def request(folder: Path, *models: str) -> EvaluationRequest:
    return EvaluationRequest(
        models=tuple(ModelConfig(path=str(folder / model)) for model in models),
        data=tuple(DataConfig(train=str(folder / name)) for name in ("easy.jsonl", "hard.jsonl")),
        rollout=RolloutConfig(sampling=SamplingConfig(max_response_tokens=8)),
        rewards=(RewardSpec(use="math"),),
        num_prompts=2,
        num_samples=0,
        cluster=ClusterConfig(),
    )


def test_every_model_gets_the_same_rows_of_every_set(folder: Path) -> None:
    for examinee in examinees(request(folder, "model", "other")):
        rows = {Path(name).stem: [prompt.row for prompt in prompts] for name, prompts in examinee.prompts.items()}
        assert rows == {"easy": [0, 1], "hard": [0, 1]}


def test_models_that_differ_in_their_weights_alone_are_of_one_kind(folder: Path) -> None:
    one, other = examinees(request(folder, "model", "other"))
    assert one.kind == other.kind
    make_policy(folder / "untied", tied=False)
    [untied] = examinees(request(folder, "untied"))
    assert untied.kind != one.kind
