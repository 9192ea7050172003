"""The thread that owns an engine, with one that samples without a model."""

import os
import queue
from pathlib import Path

from actors.engine_thread import SECONDS_BETWEEN_LOOKS, EngineThread
from actors.messages import EngineFailed, RolloutSpec, SequenceRequest
from configs.schema.rollout import RolloutConfig
from tests.actors.light_engine import LIGHT_ENGINE


def started(folder: Path) -> tuple[EngineThread, "queue.SimpleQueue[EngineFailed]"]:
    failures: queue.SimpleQueue[EngineFailed] = queue.SimpleQueue()
    spec = RolloutSpec(
        model_path=str(folder), config=RolloutConfig(), max_model_len=64, stop_token_ids=(), engine=LIGHT_ENGINE
    )
    thread = EngineThread(spec, on_finished=lambda _: None, on_failure=failures.put)
    thread.started.result(60)
    return thread, failures


def test_a_process_that_is_lost_while_there_is_no_work_is_noticed(tmp_path: Path) -> None:
    _, failures = started(tmp_path)
    (tmp_path / f"lost_{os.getpid()}").touch()
    assert "a process of the engine is lost" in str(failures.get(timeout=4 * SECONDS_BETWEEN_LOOKS))


def test_an_error_is_told_as_the_loss_that_it_came_of(tmp_path: Path) -> None:
    thread, failures = started(tmp_path)
    (tmp_path / f"lost_{os.getpid()}").touch()
    request = SequenceRequest(id="0", tokens=[5], max_tokens=9, temperature=1.0, seed=0)
    thread.add([request])  # without weights: the step raises
    assert str(failures.get(timeout=10)) == "rollout engine: RuntimeError: a process of the engine is lost"
