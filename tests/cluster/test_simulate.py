"""The real loop on a virtual clock, against engines whose times are modelled."""

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from cluster.plan_machines import Wishes, machines_of
from cluster.plan_speed import Assumptions
from cluster.simulate import Simulation, Timing, long_tail, parse_lengths, planned_timing, simulate, varied
from cluster.simulate_timing import recorded_timing
from cluster.virtual_clock import run_virtually
from configs.load import load_run
from configs.schema import RlRun, Run
from tests.reports.made_runs import PROMPTS, SAMPLES, make_run

LONGEST = 4096
LENGTHS = long_tail(600, 0.9, LONGEST)


def recipe(**rollout: Any) -> RlRun:
    sampling = {"max_response_tokens": LONGEST}
    return TypeAdapter(Run).validate_python(
        {
            "name": "simulated",
            "stage": "rl",
            "model": {"path": "nowhere"},
            "data": {"arithmetic": {}},
            "num_steps": 20,
            "rewards": [{"use": "math"}],
            "algorithm": {"name": "grpo", "kl_coef": 0},
            "trainer": {"num_ranks": 4, "tokens_per_micro_batch": 8192},
            "rollout": {"num_workers": 8, "prompts_per_step": 32, "group_size": 8, "sampling": sampling, **rollout},
        }
    )


def timing(**changes: Any) -> Timing:
    plain = Timing(
        source="a test",
        token_seconds=lambda running: 0.02,
        update_seconds=lambda tokens: 1.0,
        sync_seconds=0.0,
        score_seconds=0.0,
        slots=256,
        prompt_tokens=100,
        lengths=LENGTHS,
    )
    return replace(plain, **changes)


def mean_generation(run: RlRun) -> float:
    """Seconds of sampling in a step of the synchronous run."""
    found = simulate(run, timing(update_seconds=lambda tokens: 0.0))
    return found.step_seconds


def test_time_passes_by_timers_alone() -> None:
    async def sleeps() -> float:
        loop = asyncio.get_running_loop()
        await asyncio.gather(asyncio.sleep(3600), asyncio.sleep(86_400))
        return loop.time()

    started = time.monotonic()
    assert run_virtually(sleeps()) == pytest.approx(86_400)
    assert time.monotonic() - started < 60


def test_a_wait_that_nothing_can_end_is_told() -> None:
    async def stuck() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="every task waits, and no timer is left"):
        run_virtually(stuck())


def test_a_synchronous_step_is_its_longest_response_then_the_update() -> None:
    found = simulate(recipe(), timing(lengths=[100], update_seconds=lambda tokens: 3.0, sync_seconds=0.5))
    assert found.step_seconds == pytest.approx(100 * 0.02 + 3.0 + 0.5)
    assert found.trainer_share == pytest.approx(3.0 / 5.5)
    assert found.bubble_share == pytest.approx(2.0 / 5.5)
    assert found.worker_share == pytest.approx(2.0 / 5.5)
    assert found.slot_share == pytest.approx(2.0 / 5.5 * 32 / 256)
    assert found.staleness == {0: 1.0}
    assert found.num_trajectories == 20 * 32 * 8


def test_sequences_beyond_an_engines_places_wait_for_one() -> None:
    run = recipe(num_workers=1)
    found = simulate(run, timing(lengths=[100], slots=64, update_seconds=lambda tokens: 0.0))
    assert found.step_seconds == pytest.approx(4 * 100 * 0.02)


def test_an_engine_slows_down_with_its_sequences() -> None:
    run = recipe(num_workers=2)
    found = simulate(run, timing(lengths=[10], token_seconds=lambda n: 0.001 * n, update_seconds=lambda tokens: 0.0))
    assert found.step_seconds == pytest.approx(10 * 0.001 * 128)


def test_one_version_of_staleness_takes_at_most_65_percent_of_the_synchronous_step() -> None:
    run = recipe()
    seconds = mean_generation(run)
    equal = timing(update_seconds=lambda tokens: seconds)
    synchronous, stale = simulate(run, equal), simulate(recipe(max_staleness=1), equal)
    assert synchronous.trainer_share == pytest.approx(0.5, abs=0.02)
    assert stale.step_seconds <= 0.65 * synchronous.step_seconds
    assert set(stale.staleness) <= {0, 1}


def test_samples_are_never_older_than_the_bound() -> None:
    for bound in (0, 2, 5):
        found = simulate(recipe(max_staleness=bound), timing())
        assert max(found.staleness) <= bound
        assert sum(found.staleness.values()) == pytest.approx(1)


def test_the_same_recipe_takes_the_same_time() -> None:
    def times(found: Simulation) -> Simulation:
        return replace(found, cpu_seconds=0.0)

    run = recipe(max_staleness=2)
    assert times(simulate(run, timing())) == times(simulate(run, timing()))


def test_a_planned_simulation_needs_the_config_of_the_model_only(tmp_path: Path) -> None:
    sizes = {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14}
    described = {"model_type": "qwen2", "vocab_size": 151936, "num_key_value_heads": 2, "tie_word_embeddings": True}
    (tmp_path / "config.json").write_text(json.dumps(described | sizes))
    run = recipe()
    run = run.model_copy(update={"model": run.model.model_copy(update={"path": str(tmp_path)})})
    planned = planned_timing(run, machines_of(Wishes(num_gpus=8)), Assumptions(), None)
    few, many = (simulate(varied(run, 6, count, 1), planned) for count in (1, 8))
    assert many.bubble_share < few.bubble_share
    assert many.tokens_per_second > few.tokens_per_second


def test_a_recorded_run_is_simulated_as_it_was_and_faster_with_more_workers(tmp_path: Path) -> None:
    described = {"model_type": "qwen2", "vocab_size": 1000, "hidden_size": 64, "intermediate_size": 128}
    (tmp_path / "config.json").write_text(json.dumps(described | {"num_hidden_layers": 2, "num_attention_heads": 4}))
    shape = {"prompts_per_step": PROMPTS, "group_size": SAMPLES, "sampling": {"max_response_tokens": 16}}
    recorded = {"model": {"path": str(tmp_path)}, "rollout": shape, "algorithm": {"name": "grpo", "kl_coef": 0}}
    folder = make_run(tmp_path, **recorded)
    run = load_run(folder / "config.yaml")
    assert isinstance(run, RlRun)
    found = recorded_timing(run, folder, machines_of(Wishes()))
    once = simulate(varied(run, 8, 1, 0), found)
    assert once.step_seconds == pytest.approx(3.0, rel=0.02)  # 1.4 s of sampling, 1.3 of training, 0.3 of all else
    assert once.trainer_share == pytest.approx(1.3 / 3.0, rel=0.02)
    assert simulate(varied(run, 8, 1, 1), found).step_seconds < 0.7 * once.step_seconds
    stale = make_run(tmp_path, "stale", **{**recorded, "rollout": {**shape, "max_staleness": 1}})
    with pytest.raises(ValueError, match=r"want a reinforcement learning run with rollout\.max_staleness=0"):
        recorded_timing(run, stale, machines_of(Wishes()))


def test_lengths_are_read_or_refused() -> None:
    assert parse_lengths("constant:7", 10) == [7]
    tail = parse_lengths("tail:100:0.5", 1000)
    assert sum(tail) / len(tail) == pytest.approx(100, rel=0.02)
    for wrong in ("constant:11", "tail:5", "uniform:3", "constant:x"):
        with pytest.raises(ValueError, match=r"--lengths .*want tail:MEAN:SIGMA"):
            parse_lengths(wrong, 10)
