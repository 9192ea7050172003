"""A whole run by either way of the weights: the same samples, the same steps, the same model."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from cluster.launch import launch
from cluster.outcome import Outcome
from configs.load import load_run
from tests.cluster.small_runs import make_run

pytestmark = pytest.mark.usefixtures("cluster")

CHANGES = ["num_steps=3", "optimizer.learning_rate=0.01", "rollout.num_workers=2", "rollout.threads_per_worker=1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("transports")
    make_run(folder)
    return folder


def run(folder: Path, transport: str) -> Outcome:
    changes = [f"name={transport}", f"rollout.weight_transport={transport}", "trainer.zero_stage=3"]
    return launch(load_run(folder / "run.yaml", [*CHANGES, *changes]))


def steps_of(outcome: Outcome) -> list[dict[str, float]]:
    """What a step did, without what it took."""
    lines = map(json.loads, (outcome.folder / "metrics.jsonl").read_text().splitlines())
    parts = ("reward/", "response/", "optimizer/", "policy/", "mismatch/")
    return [{key: value for key, value in line.items() if key.startswith(parts)} for line in lines if line["step"]]


def test_a_run_is_the_same_by_either_way(folder: Path) -> None:
    stored, broadcast = (run(folder, transport) for transport in ("store", "broadcast"))
    assert stored.is_finished and broadcast.is_finished
    assert steps_of(broadcast) == steps_of(stored)
    assert all(line["mismatch/max_abs"] < 1e-3 for line in steps_of(broadcast))
    models = [AutoModelForCausalLM.from_pretrained(outcome.export).state_dict() for outcome in (stored, broadcast)]
    assert all(torch.equal(models[0][name], value) for name, value in models[1].items())
    log = (broadcast.folder / "run.log").read_text()
    assert "by way of the store" not in log


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["rollout.colocated=true"], "weight_transport=broadcast with colocated=true"),
        (["model.lora.rank=4", "rollout.lora_sync=adapter"], "weight_transport=broadcast with lora_sync=adapter"),
    ],
)
def test_what_can_not_be_broadcast_is_refused(folder: Path, changes: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load_run(folder / "run.yaml", [*changes, "rollout.weight_transport=broadcast"])
