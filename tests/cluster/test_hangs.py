"""What hangs is noticed, told in a file that names who waits for whom, and replaced where it can be."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from actors import weights
from actors.fleet import RolloutFleet
from actors.messages import RolloutSpec
from actors.ranks import RanksLost
from cluster.doctor import Doctor
from cluster.failures import FAILURES
from configs.schema import RewardPoolConfig, RewardSpec
from configs.schema.rollout import RolloutConfig
from experience.records import Sampling
from metrics.waits import Overdue, shown, watched_by
from rewards.pool import RewardPool
from tests.actors.learner_cases import make_batch, make_spec, running
from tests.actors.light_engine import LIGHT_ENGINE
from tests.actors.test_fleet import prompt
from tests.actors.tiny_policies import load_policy, make_policy, named_tensors
from tests.cluster.light_loops import make_loop
from trainers.observer import Observer

NEVER = """
import time

def never(item):
    if not item.id.startswith("example"):  # those of the trial at the start
        time.sleep(3600)
    return 1.0
"""


def report_in(folder: Path) -> str:
    """The one report that was written there."""
    (path,) = folder.glob("hang-*.txt")
    return path.read_text()


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_rank_that_hangs_is_lost_and_the_report_tells_where_every_rank_was(tmp_path: Path, num_ranks: int) -> None:
    spec = make_spec(tmp_path, zero_stage=1, num_ranks=num_ranks, collective_timeout_seconds=4)

    async def hang() -> tuple[RanksLost, list[int]]:
        async with running(spec) as group:
            pids = await asyncio.gather(*(rank.pid.remote() for rank in group._ranks))
            os.kill(pids[-1], signal.SIGSTOP)
            # Alone, a rank has no peer that could notice: the driver's own deadline does.
            with watched_by(Doctor(tmp_path).report, 4 if num_ranks == 1 else 600), pytest.raises(RanksLost) as lost:
                await group.update(make_batch(1, num_ranks=num_ranks))
            return lost.value, pids

    lost, pids = asyncio.run(hang())
    assert "; report: " in str(lost) and "\n" not in str(lost)
    text = report_in(tmp_path)
    stopped = text.index(f"TrainerRank-{num_ranks - 1} (process {pids[-1]})\nno answer within 2 s\nState:\tT (stopped)")
    assert "children: none" in text[stopped:]
    if num_ranks == 1:
        assert "for trainer ranks: update, since 4." in text
    else:
        assert f"TrainerRank-0 (process {pids[0]})\nat " in text
        assert "self._trainer.update(" in text, "the traceback of the rank that waited"
        assert "imed out" in text


@pytest.mark.usefixtures("cluster")
def test_a_rank_that_is_told_to_go_is_lost(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, zero_stage=1, num_ranks=2)

    async def lose() -> str:
        async with running(spec) as group:
            pids = await asyncio.gather(*(rank.pid.remote() for rank in group._ranks))
            os.kill(pids[1], signal.SIGTERM)
            with pytest.raises(RanksLost) as lost:
                for _ in range(100):  # it may end what it is at
                    await group.update(make_batch(1, num_ranks=2))
            return str(lost.value)

    assert "trainer rank 1 of 2 failed in update: its process died" in asyncio.run(lose())


def sampled_while_worker_gets(number: signal.Signals, folder: Path) -> int:
    """Have a worker sample groups, send it a signal and see them all come; the worker's process."""
    model = make_policy(folder / "model")
    config = RolloutConfig(num_workers=1, progress_timeout_seconds=4, max_restarts=1)
    spec = RolloutSpec(
        model_path=str(model), config=config, max_model_len=2000, stop_token_ids=(1,), engine=LIGHT_ENGINE
    )
    sampling = Sampling(num_samples=4, max_response_tokens=1500, temperature=1.0, seed=3)

    async def sample() -> int:
        fleet = RolloutFleet(spec)
        try:
            with shown("rollout fleet", fleet.__str__):
                await fleet.start()
                await fleet.load(weights.publish(1, [named_tensors(load_policy(model))]))
                victim = await fleet.workers["rollout-0"].actor.__ray_call__.remote(lambda worker: os.getpid())
                waiting = asyncio.gather(*(fleet.generate(prompt(at), sampling) for at in range(8)))
                await asyncio.sleep(0.1)
                os.kill(victim, number)
                assert [len(group) for group in await waiting] == [4] * 8
                return victim
        finally:
            await fleet.close()

    with watched_by(Doctor(folder).report):
        return asyncio.run(asyncio.wait_for(sample(), 120))


@pytest.mark.usefixtures("cluster")
def test_a_rollout_worker_that_hangs_is_told_of_and_replaced(tmp_path: Path) -> None:
    victim = sampled_while_worker_gets(signal.SIGSTOP, tmp_path)
    text = report_in(tmp_path)
    assert "UTC: rollout-0: no progress for 4 s (its status)" in text
    assert "for rollout-0: a finished group, since" in text
    assert "for rollout fleet: a group, since" in text and "(7 more since then)" in text
    assert "rollout-0 (sampling): 8 groups leased, 32 samples unfinished" in text
    assert f"rollout-0 (process {victim})\nno answer within 2 s\nState:\tT (stopped)" in text


@pytest.mark.usefixtures("cluster")
def test_a_rollout_worker_that_is_told_to_go_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sampled_while_worker_gets(signal.SIGTERM, tmp_path)
    (warning,) = [record.message for record in caplog.records if "a new process takes its place" in record.message]
    assert warning.startswith("rollout-0 on ")
    assert ": ActorDiedError" in warning
    assert not list(tmp_path.glob("hang-*.txt"))


def test_a_reward_that_never_returns_ends_the_run_with_a_report(tmp_path: Path) -> None:
    (tmp_path / "rules.py").write_text(NEVER)
    pool = RewardPool(
        [RewardSpec(use=f"{tmp_path}/rules.py:never", timeout_seconds=3600)], RewardPoolConfig(num_processes=1)
    )
    loop = make_loop(steps=1, rewards=pool)
    pool.start()

    async def hang() -> None:
        with shown("reward pool", pool.__str__):
            await loop.run(Observer())

    try:
        with watched_by(Doctor(tmp_path).report, 2), pytest.raises(Overdue) as overdue:
            asyncio.run(hang())
    finally:
        pool.close()
    assert isinstance(overdue.value, FAILURES), "told in one line, exit 1"
    assert str(overdue.value).startswith("rewards: no progress for 2 s (verdicts on a group); report: ")
    text = report_in(tmp_path)
    assert "for rewards: verdicts on a group, since 2." in text
    assert "for sampling and scoring: the groups of step 1, since 2." in text
    assert "buffer: 2 groups in flight, 0 finished, 0 dropped; a step takes 2" in text
    assert "reward pool: 1 jobs in the queue of 1 processes" in text
    assert "in RewardPool._run" in text, "the stack of the task that waits"
    assert "thread rewards-0" in text
