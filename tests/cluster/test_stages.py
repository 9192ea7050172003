"""Pre-training, SFT and reinforcement learning, one after the other, on the real engines at tiny size."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cluster.launch import launch
from cluster.outcome import Outcome
from experience.store import read_trajectories
from tests.cluster.tiny_recipes import TRAINER, new_model, recipe

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, cluster: None) -> tuple[Path, dict[str, Outcome]]:
    """Qwen3 with the character tokenizer, ZeRO-1, one rollout worker."""
    folder = tmp_path_factory.mktemp("chain")
    return folder, {stage: launch(recipe(stage, folder)) for stage in ("pretrain", "sft", "rl")}


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_each_stage_ends_with_a_model_that_transformers_loads(chain: tuple[Path, dict[str, Outcome]]) -> None:
    for outcome in chain[1].values():
        assert outcome.is_finished and outcome.step == 2 and outcome.export
        model = AutoModelForCausalLM.from_pretrained(outcome.export)
        assert len(AutoTokenizer.from_pretrained(outcome.export)) == model.config.vocab_size


def test_supervised_stages_report_perplexity_and_gradient_norm(chain: tuple[Path, dict[str, Outcome]]) -> None:
    for stage in ("pretrain", "sft"):
        last = metrics(chain[0] / stage)[-1]
        assert last["supervised/perplexity"] == pytest.approx(np.exp(last["supervised/loss"]))
        assert last["eval/perplexity"] > 1 and last["optimizer/grad_norm"] > 0


def test_training_moves_the_weights_of_every_stage(chain: tuple[Path, dict[str, Outcome]]) -> None:
    weights = [AutoModelForCausalLM.from_pretrained(o.export).model.norm.weight for o in chain[1].values()]
    assert not torch.equal(weights[0], weights[1])


def test_the_first_update_is_strictly_on_policy(chain: tuple[Path, dict[str, Outcome]]) -> None:
    """The engine's log-probs are the trainer's, no ratio differs from 1, no sample is stale."""
    for line in metrics(chain[0] / "rl")[1:]:
        assert line["mismatch/max_abs"] < 1e-3
        assert line["policy/ratio_max"] == 1.0
        assert line["staleness/max"] == 0


def test_samples_are_stored_whole_and_each_prompt_once(chain: tuple[Path, dict[str, Outcome]]) -> None:
    tables = [read_trajectories(chain[0] / "rl" / "trajectories" / f"step_{step:06d}.parquet") for step in (1, 2)]
    rows = [row for table in tables for row in table.to_pylist()]
    assert [row["ordinal"] for row in rows] == [ordinal for ordinal in range(8) for _ in range(2)]
    assert [row["min_version"] for row in rows] == [0] * 8 + [1] * 8
    tokenizer = AutoTokenizer.from_pretrained(chain[0] / "sft" / "export")
    for row in rows:
        assert len(row["response_tokens"]) == len(row["rollout_logprobs"]) == len(row["versions"])
        assert tokenizer.decode(row["response_tokens"], skip_special_tokens=True) == row["response"]
        assert row["status"] == "ok" and row["reward"] == sum(map(str.isalpha, row["response"])) / len(row["response"])


def test_time_is_accounted_for(chain: tuple[Path, dict[str, Outcome]]) -> None:
    line = metrics(chain[0] / "rl")[-1]
    parts = [line[f"time/{part}"] for part in ("generate", "score", "train", "sync", "evaluate", "save", "other")]
    assert sum(parts) == pytest.approx(line["time/step"], rel=1e-3)


def test_a_resumed_run_samples_and_learns_what_the_whole_run_does(chain: tuple[Path, dict[str, Outcome]]) -> None:
    folder = chain[0]
    path = {"model": {"path": str(folder / "sft" / "export")}}
    launch(recipe("rl", folder, name="halves", num_steps=1, **path))
    outcome = launch(recipe("rl", folder, name="halves", num_steps=2, **path), resume=True)
    assert outcome.step == 2
    whole, halves = metrics(folder / "rl"), metrics(folder / "halves")
    assert [line["step"] for line in halves] == [0, 1, 2]
    for name in ("reward/mean", "policy/loss", "optimizer/grad_norm", "eval/accuracy"):
        assert halves[2][name] == whole[2][name]
    samples = [
        read_trajectories(folder / run / "trajectories" / "step_000002.parquet").column("response_tokens").to_pylist()
        for run in ("rl", "halves")
    ]
    assert samples[0] == samples[1]
    exported = [AutoModelForCausalLM.from_pretrained(folder / run / "export").state_dict() for run in ("rl", "halves")]
    assert all(torch.equal(exported[0][name], exported[1][name]) for name in exported[0])


def test_an_earlier_run_is_not_overwritten(chain: tuple[Path, dict[str, Outcome]]) -> None:
    with pytest.raises(ValueError, match="holds an earlier run"):
        launch(recipe("pretrain", chain[0]))


def test_llama_with_bpe_under_zero_3_and_two_rollout_workers(tmp_path: Path) -> None:
    zero_3 = {"trainer": {**TRAINER, "zero_stage": 3}}
    launch(recipe("pretrain", tmp_path, model=new_model("llama", "bpe"), **zero_3))
    launch(recipe("sft", tmp_path, **zero_3))
    rollout = {"num_workers": 2, "prompts_per_step": 4, "group_size": 2, "sampling": {"max_response_tokens": 16}}
    outcome = launch(recipe("rl", tmp_path, rollout=rollout, **zero_3))
    assert outcome.is_finished
    lines = metrics(tmp_path / "rl")
    assert lines[-1]["mismatch/max_abs"] < 1e-3
    table = read_trajectories(tmp_path / "rl" / "trajectories" / "step_000001.parquet")
    assert set(table.column("worker").to_pylist()) == {"rollout-0", "rollout-1"}


@pytest.mark.slow
def test_a_mixture_of_experts_whose_tokens_two_ranks_share(tmp_path: Path) -> None:
    shared = {"trainer": {**TRAINER, "zero_stage": 3, "sequence_parallel_size": 2, "peak_tflops": 0.1}}
    launch(recipe("pretrain", tmp_path, model=new_model("qwen3_moe"), **shared))
    outcome = launch(recipe("rl", tmp_path, model={"path": str(tmp_path / "pretrain" / "export")}, **shared))
    assert outcome.export
    assert AutoModelForCausalLM.from_pretrained(outcome.export).config.num_experts == 8
    for line in metrics(tmp_path / "rl")[1:]:
        assert line["mismatch/max_abs"] < 1e-4
        assert line["policy/ratio_max"] == 1.0
        assert line["throughput/mfu"] == pytest.approx(line["throughput/tflops_per_rank"] / 0.1)
