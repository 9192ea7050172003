"""The last rollout worker of a run is lost for good: what was trained is saved, and the run can be resumed."""

import json
import time
from pathlib import Path

import pytest

from tests.cluster.small_runs import make_run
from tests.cluster.starts import LIGHT_WUTONG, Start, described, last_step, saved_step

pytestmark = pytest.mark.slow


def test_the_run_saves_its_last_step_names_the_node_and_exits_with_75(tmp_path: Path) -> None:
    make_run(
        tmp_path,
        rollout={"max_restarts": 0},
        trainer={"num_ranks": 1},
        checkpoint={"every_steps": 0},
    )
    start = Start(tmp_path, wutong=LIGHT_WUTONG)
    try:
        start.wait_until(lambda: last_step(tmp_path) > 1, 120)
        node = json.loads((tmp_path / "run" / "status.json").read_text())["workers"][0]["node"]
        (worker,) = [process for process in start.processes() if "RolloutWorker" in described(process)]
        killed = time.monotonic()
        worker.kill()
        assert start.process.wait(timeout=60) == 75
        assert time.monotonic() - killed < 60
    finally:
        start.process.kill()
    told = " ".join(start.stderr.split())
    assert f"no rollout worker is left; the last: rollout-0 on {node}: " in told
    assert saved_step(tmp_path) == last_step(tmp_path) > 1
    assert "go on with: wutong train run.yaml --resume" in told
