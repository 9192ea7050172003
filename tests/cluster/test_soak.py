"""A short soak; benchmarks/soak.py is the long one, with real engines in the rollout workers."""

from pathlib import Path

import pytest

from tests.cluster.small_runs import GROUP_SIZE, PROMPTS_PER_STEP
from tests.cluster.soak import make_soaked_run, soak
from tests.cluster.starts import LIGHT_WUTONG

pytestmark = pytest.mark.slow

NUM_STEPS, NUM_KILLS = 16, 4


def test_a_run_under_random_kills_finishes_and_trains_on_each_prompt_in_the_order_of_the_data(tmp_path: Path) -> None:
    make_soaked_run(tmp_path, NUM_STEPS)
    done = soak(tmp_path, num_kills=NUM_KILLS, seed=0, wutong=LIGHT_WUTONG, seconds=400)
    assert len(done.kills) == NUM_KILLS
    assert done.steps == list(range(1, NUM_STEPS + 1))
    assert done.ordinals == dict.fromkeys(range(NUM_STEPS * PROMPTS_PER_STEP), GROUP_SIZE)
