"""An evaluation's document, files and tables, from made-up responses."""

import asyncio
import json
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from actors.placement import PlacementRefused
from cli.evaluation_tables import cell, tables, warnings
from cluster.evaluate import ModelAnswers, scored
from cluster.evaluation_inputs import EvaluationRequest, examinees
from cluster.evaluation_results import ANSWERS, RESULTS, results, write_results
from configs.schema import ClusterConfig, DataConfig, ModelConfig, RewardSpec, RolloutConfig
from experience.parquet import read_parquet
from rewards.contract import RewardError, RewardInput, RewardOutage, Score
from tests.trainers.measured import measured, responses

NAN = float("nan")


def request(*models: str, data: tuple[str, ...] = ("a.jsonl", "b.jsonl"), num_samples: int = 2) -> EvaluationRequest:
    return EvaluationRequest(
        models=tuple(ModelConfig(path=model) for model in models),
        data=tuple(DataConfig(train=source) for source in data),
        rollout=RolloutConfig(),
        rewards=(RewardSpec(use="math"),),
        num_prompts=4,
        num_samples=num_samples,
        cluster=ClusterConfig(),
    )


def answers(path: str, right: int, *, failed: tuple[int, ...] = (), last_score: float = 2.0) -> ModelAnswers:
    """Of a model that solves `right` of four prompts of each set."""
    greedy = [[int(row < right)] for row in range(4)]
    sampled = responses(
        [[1, 0]] * 4, classes=[[0, 1]] * 3 + [[0, None]], scores=[[1.0, 2.0]] * 3 + [[1.0, last_score]], failed=failed
    )
    sets = [
        measured(name, responses(greedy, classes=[[0]] * 4, scores=[[1.0]] * 4), sampled)
        for name in ("a.jsonl", "b.jsonl")
    ]
    return ModelAnswers(path=path, checksum=f"{path}'s", sets=sets)


def shown(document: dict, width: int = 200) -> str:
    page = StringIO()
    Console(file=page, width=width).print(*tables(document), sep="\n")
    return page.getvalue()


def test_a_document_has_every_set_the_mean_and_the_comparison() -> None:
    document = results(request("m", "n"), [answers("m", 4), answers("n", 1)])
    [first, second] = document["models"]
    assert [model["mean"]["greedy accuracy"]["value"] for model in (first, second)] == [1.0, 0.25]
    assert set(first["data"]) == {"a.jsonl", "b.jsonl"}
    facts = {
        key: first["data"]["a.jsonl"][key]
        for key in ("prompts", "responses", "cut", "unjudged", "uncompared", "unscored")
    }
    assert facts == {"prompts": 4, "responses": 12, "cut": 0, "unjudged": 0, "uncompared": 0, "unscored": 0}
    everything = document["comparison"]["all"]
    assert (everything["only_first_right"], everything["only_second_right"]) == (6, 0)
    assert document["comparison"]["data"]["b.jsonl"]["only_first_right"] == 3
    assert everything["differences"]["greedy accuracy"]["value"] == pytest.approx(0.75)
    assert everything["win_rates"]["greedy win rate"]["value"] == pytest.approx(0.5 + 0.75 / 2)
    assert everything["win_rates"]["sampled win rate"]["value"] == 0.5


def test_one_model_is_compared_with_none() -> None:
    assert "comparison" not in results(request("m"), [answers("m", 2)])


def test_verdicts_and_scores_that_failed_are_counted_and_told() -> None:
    document = results(request("m"), [answers("m", 2, failed=(1,), last_score=NAN)])
    data = document["models"][0]["data"]["a.jsonl"]
    assert (data["unjudged"], data["unscored"]) == (2, 1)
    assert warnings(document)[:2] == [
        "m on a.jsonl: 2 of 12 responses could not be judged, and count as wrong",
        "m on a.jsonl: 1 of 12 responses the reward model could not score; best-of-n is without their prompts",
    ]
    assert warnings(results(request("m"), [answers("m", 2)])) == []


def test_the_files_hold_the_document_and_a_row_a_response(tmp_path: Path) -> None:
    models = [answers("m", 2, last_score=NAN), answers("n", 1)]
    document = results(request("m", "n"), models)
    write_results(tmp_path / "new" / "out", document, models)
    assert json.loads((tmp_path / "new" / "out" / RESULTS).read_text()) == document
    rows = read_parquet(tmp_path / "new" / "out" / ANSWERS).to_pylist()
    assert len(rows) == 2 * 2 * 4 * 3
    assert rows[4 + 7] == {
        "model": "m", "data": "a.jsonl", "prompt_id": "3", "kind": "sampled", "sample_index": 1,
        "prompt": "question 3", "gold": "3", "response": "r3.1", "answer": None, "vote": None, "is_right": False,
        "reward": 0.0, "status": "ok", "score": None, "finish_reason": "stop", "num_tokens": 2,
    }  # fmt: skip


def test_a_number_that_there_is_not_is_null_in_json(tmp_path: Path) -> None:
    part = responses([[1]], scores=[[NAN]])
    models = [ModelAnswers(path="m", checksum="", sets=[measured("a.jsonl", part)])]
    document = results(request("m", num_samples=0), models)
    write_results(tmp_path, document, models)
    assert document["models"][0]["mean"]["greedy score"] == {"value": None, "low": None, "high": None}
    assert cell("greedy score", document["models"][0]["mean"]) == ""


def test_the_tables_have_a_row_a_set_and_one_a_k() -> None:
    text = shown(results(request("m", "[n]"), [answers("m", 4), answers("[n]", 1)]))
    assert text.count("a.jsonl") == text.count("b.jsonl") == 3  # each model's, and the comparison's
    assert text.count("mean of the sets") == 2
    assert "m less [n]" in text
    assert "4.6 to 69.9" in text and "+25.0 to +100.0" in text
    for said in ("25.0%", "+75.0%", "maj@2", "best-of-k score", "McNemar's p", "0.031", "greedy win rate", "87.5%"):
        assert said in text


def test_a_single_set_without_samples_is_one_row() -> None:
    single = ModelAnswers(path="m", checksum="", sets=[measured("a.jsonl", responses([[1], [0]]))])
    text = shown(results(request("m", data=("a.jsonl",), num_samples=0), [single]), width=60)
    assert "50.0%" in text and "mean of the sets" not in text and "pass@" not in text


class Learned:
    """A reward model that finds no room, or that scores by length."""

    def __init__(self, failure: Exception | None) -> None:
        self.fleets = {"reward_model": self}
        self._failure = failure

    async def start(self, *, use_gpu: bool) -> None:
        if self._failure:
            raise self._failure

    async def score(self, items: Sequence[RewardInput]) -> list[Score]:
        return [Score(value=float(len(item.response))) for item in items]


@pytest.mark.parametrize(
    ("failure", "score", "said"),
    [
        (None, 4.0, ""),
        (PlacementRefused("no GPU is free"), 1.0, "no GPU is free"),
        (RewardError("out of memory"), 1.0, "out of memory"),
        (RewardOutage("no replica is left"), 1.0, "no replica is left"),
    ],
)
def test_a_reward_model_that_fails_costs_its_own_numbers_alone(
    failure: Exception | None, score: float, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    [model] = asyncio.run(scored([answers("m", 2)], Learned(failure), use_gpu=False))  # type: ignore[arg-type]
    assert model.sets[0].greedy.scores is not None
    assert model.sets[0].greedy.scores[0, 0] == score
    assert said in caplog.text


def test_a_data_set_that_is_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"DATA=a.jsonl: given twice"):
        examinees(request("m", data=("a.jsonl", "a.jsonl")))
