"""Engines and ranks on the same GPUs: logical ones of Ray's, with light engines that can sleep and real ranks."""

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from experience.store import read_trajectories
from tests.cluster.starts import LIGHT_WUTONG, WUTONG, Start
from tests.cluster.test_exact_resume import NUM_STEPS, make_exact_run, metrics

# Nothing that is scored ahead where engines are apart: another cut into passes may show in the last digit.
UNSCORED = ("algorithm.kl_coef=0", "algorithm.mini_batches=1")
TOGETHER = ("rollout.colocated=true", "rollout.num_workers=2")


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A run on a cluster with so many GPUs, as Ray counts them."""

    def run(num_gpus: int, *overrides: str) -> Path:
        monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", f'{{"GPU": {num_gpus}}}')
        folder = tmp_path / str(num_gpus)
        folder.mkdir()
        make_exact_run(folder)
        start = Start(folder, *UNSCORED, *overrides, wutong=LIGHT_WUTONG)
        assert start.process.wait(timeout=300) == 0, start.stderr
        return folder / "run"

    return run


def test_taking_turns_on_half_the_gpus_changes_no_number(train: Callable[..., Path]) -> None:
    apart = train(4, "rollout.num_workers=2")
    together = train(2, *TOGETHER)  # nobody would find room there who did not share
    expected, found = (load_file(run / "export" / "model.safetensors") for run in (apart, together))
    assert expected.keys() == found.keys()
    assert all(tensor.numpy().tobytes() == found[name].numpy().tobytes() for name, tensor in expected.items())
    for step in range(1, NUM_STEPS + 1):
        name = f"step_{step:06d}.parquet"
        samples, same = (read_trajectories(run / "trajectories" / name) for run in (apart, together))
        columns = [column for column in samples.column_names if column != "worker"]  # whoever was free sampled it
        assert all(samples[column].equals(same[column]) for column in columns)
    assert metrics(together) == metrics(apart)
    assert "time/turns" in (together / "metrics.jsonl").read_text()


def test_without_a_gpu_it_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    make_exact_run(tmp_path)
    start = Start(tmp_path, *TOGETHER, wutong=WUTONG)
    assert start.process.wait(timeout=120) == 2, start.stderr
    told = [line for line in start.stderr.splitlines() if "rollout.colocated=true" in line]
    assert told and "an engine on a CPU can't sleep" in told[0] and told[0].endswith("set it to false")
