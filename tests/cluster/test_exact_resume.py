"""A run that is killed again and again, and resumed each time, ends as one that was left alone: bit for bit."""

import json
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from experience.store import read_trajectories
from metrics.names import PASSING
from tests.cluster.small_runs import PROMPTS_PER_STEP, make_run
from tests.cluster.starts import Start, described, last_step

pytestmark = pytest.mark.slow

NUM_STEPS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """What was there when a run was killed."""

    last_step: int
    drafts: list[str]


def make_exact_run(folder: Path) -> None:
    """A recipe with everything that a resumed run must find again: two mini-batches, a reference, an evaluation."""
    make_run(
        folder,
        num_prompts=22,
        num_held_out=8,
        num_steps=NUM_STEPS,
        optimizer={"learning_rate": 1e-3, "warmup_steps": 2, "schedule": "cosine"},
        trainer={"tokens_per_micro_batch": 128},
        algorithm={"kl_coef": 0.05, "mini_batches": 2},
        evaluation={"every_steps": 3, "num_prompts": 8},
        checkpoint={"every_steps": 2, "keep_last": 2},
    )


def kill(start: Start) -> Kill:
    """SIGKILL of the driver; its processes are gone on return."""
    start.process.kill()
    start.process.wait()
    drafts = [path.name for path in (start.folder / "run" / "checkpoints").glob(".step_*")]
    deadline = time.monotonic() + 60
    while left := start.processes():
        for process in left:
            process.send_signal(signal.SIGCONT)  # one that a test stopped could not end by itself
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    return Kill(last_step=last_step(start.folder), drafts=drafts)


def while_sampling(start: Start) -> None:
    """In step 2, of which some groups are scored already: before the first checkpoint."""
    start.wait_until(lambda: (start.folder / "braked").exists(), 120)


def while_training(start: Start) -> None:
    """In the update of step 3, after the first checkpoint: one rank stands still, the other waits for it."""
    start.wait_until(lambda: last_step(start.folder) >= 2, 120)
    start.wait_until(lambda: (start.folder / "braked").exists(), 60)
    ranks = [process for process in start.processes() if "PolicyRank" in described(process)]
    ranks[-1].suspend()
    (start.folder / "brake").unlink()
    time.sleep(2)  # what is sampled is scored meanwhile


def while_saving(start: Start) -> None:
    """In the writing of a checkpoint after the one that the run was resumed from."""
    folder = start.folder / "run" / "checkpoints"
    before = last_step(start.folder)
    start.wait_until(lambda: last_step(start.folder) > before, 120)
    deadline = time.monotonic() + 60
    while not any(folder.glob(".step_*.partial")):
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    make_exact_run(folder)
    start = Start(folder)
    assert start.process.wait(timeout=300) == 0, start.stderr
    return folder / "run"


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Kill]]:
    folder = tmp_path_factory.mktemp("killed")
    make_exact_run(folder)
    moments: list[tuple[Callable[[Start], None], int | None]] = [
        (while_sampling, PROMPTS_PER_STEP + 2),
        (while_training, 2 * PROMPTS_PER_STEP + 2),
        (while_saving, None),
    ]
    kills = []
    for moment, brake in moments:
        start = Start(folder, *(["--resume", "--exact"] if kills else []), brake=brake)
        moment(start)
        kills.append(kill(start))
    start = Start(folder, "--resume", "--exact")
    assert start.process.wait(timeout=300) == 0, start.stderr
    return folder / "run", kills


def metrics(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith((*PASSING, "time"))} for line in lines]


def test_the_run_was_killed_at_three_kinds_of_moments(killed: tuple[Path, list[Kill]]) -> None:
    sampling, training, saving = killed[1]
    assert (sampling.last_step, training.last_step) == (1, 2)
    assert 2 < saving.last_step < NUM_STEPS
    assert [bool(kill.drafts) for kill in (sampling, training, saving)] == [False, False, True]


def test_the_weights_are_the_same(undisturbed: Path, killed: tuple[Path, list[Kill]]) -> None:
    expected, found = (load_file(run / "export" / "model.safetensors") for run in (undisturbed, killed[0]))
    start = load_file(undisturbed.parent / "model" / "model.safetensors")
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert tensor.numpy().tobytes() == found[name].numpy().tobytes(), name
    assert any(not start[name].equal(tensor) for name, tensor in expected.items() if name in start), "it learned"


def test_every_sample_of_every_step_is_the_same(undisturbed: Path, killed: tuple[Path, list[Kill]]) -> None:
    for step in range(1, NUM_STEPS + 1):
        name = f"step_{step:06d}.parquet"
        expected, found = (read_trajectories(run / "trajectories" / name) for run in (undisturbed, killed[0]))
        for column in expected.column_names:
            assert expected[column].equals(found[column]), (step, column)


def test_every_metric_of_every_step_is_the_same(undisturbed: Path, killed: tuple[Path, list[Kill]]) -> None:
    expected, found = metrics(undisturbed), metrics(killed[0])
    assert [line["step"] for line in expected] == list(range(NUM_STEPS + 1))
    assert found == expected
    assert {"policy/kl_ref", "optimizer/grad_norm", "mismatch/max_abs"} <= expected[-1].keys()
    assert {"eval/accuracy", "eval/response_length_mean"} <= expected[-1].keys()
