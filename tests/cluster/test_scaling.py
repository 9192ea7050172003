"""When a run asks for a worker more or less."""

import asyncio
from collections.abc import Mapping

import pytest

from cluster.scaling import Autoscaler, wish
from configs.schema.rollout import AutoscaleConfig

CONFIG = AutoscaleConfig(min_workers=1, max_workers=4, steps=3)
WAITS = {"share/generate": 0.6, "rollout/idle_fraction": 0.0}
IDLES = {"share/generate": 0.1, "rollout/idle_fraction": 0.8}
CONTENT = {"share/generate": 0.1, "rollout/idle_fraction": 0.2}


@pytest.mark.parametrize(
    ("metrics", "num_workers", "expected"),
    [
        (WAITS, 2, 1),
        (WAITS, 4, 0),  # no more than the most
        (WAITS, 5, -1),
        (IDLES, 2, -1),
        (IDLES, 1, 0),  # no fewer than the least
        (CONTENT, 2, 0),
        ({**WAITS, "rollout/idle_fraction": 0.9}, 2, 1),  # turn by turn: a shorter step is worth more
        ({}, 2, 0),
    ],
)
def test_what_one_step_wishes(metrics: Mapping[str, float], num_workers: int, expected: int) -> None:
    assert wish(CONFIG, metrics, num_workers) == expected


class Fleet:
    """As many workers as it was told."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.asked: list[int] = []

    async def scale(self, num_workers: int) -> str:
        self.asked.append(num_workers)
        self.names = tuple(f"rollout-{number}" for number in range(num_workers))
        return "done"


def asked_for(*steps: Mapping[str, float]) -> list[int]:
    async def play() -> list[int]:
        fleet = Fleet(("rollout-0", "rollout-1"))
        autoscaler = Autoscaler(CONFIG, fleet, fleet)
        for metrics in steps:
            autoscaler.after_step(metrics)
            await asyncio.sleep(0)
        return fleet.asked

    return asyncio.run(play())


def test_several_steps_in_a_row_must_agree() -> None:
    assert asked_for(WAITS, WAITS) == []
    assert asked_for(WAITS, CONTENT, WAITS, WAITS) == []
    assert asked_for(WAITS, WAITS, WAITS) == [3]
    assert asked_for(IDLES, IDLES, IDLES) == [1]


def test_after_a_change_as_many_steps_pass_before_the_next() -> None:
    assert asked_for(*[WAITS] * 5) == [3]
    assert asked_for(*[WAITS] * 6) == [3, 4]
    assert asked_for(*[WAITS] * 12) == [3, 4]
