"""Rules about the rollout workers: who is slow, who has nothing to do, who had to be replaced."""

from reports.curves import Curves, Finding, ends


def workers_slow(curves: Curves) -> Finding | None:
    """A worker was slower than the others in half of the latest steps."""
    late = {
        name.partition("/")[2]: window
        for name in curves
        if name.startswith("slowness/") and (window := ends(curves, name)[1]) is not None
    }
    slow = {worker: window for worker, window in late.items() if window.mean > 2}
    if not slow:
        return None
    worst = max(slow, key=lambda worker: slow[worker].mean)
    return Finding(
        tone="note",
        title=f"{worst} is slow" if len(slow) == 1 else f"{len(slow)} rollout workers are slow",
        evidence=f"An engine step of {worst} takes {slow[worst]} times the others' in the latest steps.",
        advice="Look at its node: another job, a throttled device, memory that is swapped.",
    )


def workers_idle(curves: Curves) -> Finding | None:
    """The workers have nothing to sample for more than half of the latest steps."""
    _, idle = ends(curves, "rollout/idle_fraction")
    if idle is None or idle.mean <= 0.5:
        return None
    return Finding(
        tone="note",
        title="Rollout workers are idle",
        evidence=f"{idle.mean:.0%} of the latest steps passed without anything to sample.",
        advice="Let sampling overlap training (rollout.max_staleness: 1), or use fewer workers.",
    )


def workers_replaced(curves: Curves) -> Finding | None:
    """Rollout workers were lost and replaced; the count is of one start of the run."""
    series = curves.get("rollout/restarts")
    count = max((value for _, value in series.finite), default=0.0) if series else 0.0
    if count == 0:
        return None
    return Finding(
        tone="note",
        title="Rollout workers were replaced",
        evidence=f"{count:.0f} of their processes were lost. No sample was.",
        advice="The log says of each where it ran and what it had said last.",
    )
