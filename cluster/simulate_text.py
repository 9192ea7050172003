"""Simulations as people read them, and as programs do."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from cluster.simulate import Simulation, Timing


def simulations_json(found: Sequence[Simulation], timing: Timing) -> dict[str, Any]:
    """Shares are parts of 1, times are virtual seconds but for `cpu_seconds`."""
    return {"timing": timing.source, "simulations": [asdict(simulation) for simulation in found]}


def simulations_text(found: Sequence[Simulation], timing: Timing) -> str:
    """One line for each."""
    return "\n".join(_lines(found, timing)) + "\n"


def _lines(found: Sequence[Simulation], timing: Timing) -> Iterator[str]:
    yield (
        f"speed from {timing.source}; {timing.slots} sequences an engine; {timing.sync_seconds:.3g} s for new weights; "
        f"{found[0].num_steps} steps"
    )
    yield (
        f"{'workers':>8}{'staleness':>10}{'step s':>10}{'p95':>10}{'tokens/s':>12}"
        f"{'trainer':>9}{'bubble':>8}{'workers':>9}{'slots':>7}   samples by staleness"
    )
    yield from (_line(simulation) for simulation in found)
    yield "trainer: part of the time that it trains; bubble: that it waits for samples; workers: that they have any to"
    yield "decode; slots: places for sequences that are taken"
    work = sum(s.cpu_seconds for s in found)
    trajectories = sum(s.num_trajectories for s in found)
    yield (
        f"simulated {trajectories:,} trajectories in {work:.1f} CPU s: {work / trajectories * 10_000:.2f} s of the "
        "controller and its modelled engines for 10,000"
    )


def _line(s: Simulation) -> str:
    ages = " ".join(f"{age}: {share:.0%}" for age, share in s.staleness.items())
    return (
        f"{s.num_workers:>8}{s.max_staleness:>10}{s.step_seconds:>10.4g}{s.step_seconds_p95:>10.4g}"
        f"{s.tokens_per_second:>12,.0f}{s.trainer_share:>9.0%}{s.bubble_share:>8.0%}{s.worker_share:>9.0%}"
        f"{s.slot_share:>7.0%}   {ages}"
    )
