"""The micro-benchmarks at their smallest: they run, and their tables say what was measured."""

from pathlib import Path

from benchmarks import controller, store, sync


def test_the_controller_takes_every_trajectory_at_the_learners_pace() -> None:
    found = controller.measure(controller.Load(num_workers=2, rate=400, num_steps=4, step_seconds=0.1))
    assert found.num_trajectories == 40
    assert found.cpu_seconds > 0
    assert 0 < found.played_seconds < found.seconds
    assert controller.table([found]).splitlines()[2].startswith("| 2 | ")


def test_the_store_is_held_against_plain_pyarrow(tmp_path: Path) -> None:
    found = store.measure(tmp_path, num_groups=3, rounds=1)
    assert [each.num_trajectories for each in found] == [24] * 5
    rows = store.table_of(found).splitlines()[2:]
    assert [row.split(" | ")[-1] for row in rows if "plain" in row] == ["1.00 |", "1.00 |"]


def test_a_sync_is_held_against_both_copies() -> None:
    copies = [
        sync.Sync(what=sync.COPY, num_bytes=4_000_000_000, seconds=[2.0, 1.0, 3.0], publish=[]),
        sync.Sync(what=sync.NEW_MEMORY, num_bytes=4_000_000_000, seconds=[4.0], publish=[]),
    ]
    syncs = [
        sync.Sync(what=f"sync to {count}", num_bytes=4_000_000_000, seconds=[seconds], publish=[1.0])
        for count, seconds in ((1, 4.0), (4, 6.0))
    ]
    lines = sync.table([*copies, *syncs], [sync.Part(what="put", seconds=[0.5])]).splitlines()
    assert "| sync to 1 | 4000 | 1000 | 1.0 | 50% | 100% |" in lines
    assert "| put | 500.0 |" in lines
    assert lines[-1] == "sync to 4: 1.50 times as long as sync to 1"
