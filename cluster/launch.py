"""Running one stage from its recipe: the folder, the lock, the resume, and which stage it is."""

import asyncio
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from actors.garbage import all_stays
from actors.names import naming
from cluster import imitation, preferences, reinforce, supervise
from cluster.doctor import Doctor
from cluster.folder import RunFolder
from cluster.inputs import absolute
from cluster.keeping import best_rule
from cluster.outcome import Outcome
from cluster.plan_start import plan_at_start
from cluster.resuming import checkpoint_to_resume
from cluster.run_log import kept_log
from cluster.signals import raised
from cluster.stopping import Stop, Stopped
from configs.schema import DpoRun, RewardModelRun, RlRun, Run
from metrics.waits import watched_by
from trainers.signature import own_key


def launch(
    run: Run, *, resume: bool = False, exact: bool = False, allow: Sequence[str] = (), on_trust: bool = False
) -> Outcome:
    """Run a stage to its end, or until it is told to stop. ValueError, in one line, for what is wrong in the recipe.

    `exact`, `allow`, `on_trust`: see `checkpoint_to_resume`.
    """
    run = absolute(run)
    best_rule(run)  # what is wrong with it, or with the key, is found before anything starts
    own_key()
    folder = RunFolder(run)
    with folder.opened(resume=resume), kept_log(folder.log) as log:
        start = checkpoint_to_resume(run, folder, exact=exact, allow=allow, on_trust=on_trust) if resume else None
        folder.write_config(run)
        plan_at_start(run, folder.plan)
        log.note(f"begun in {folder}" if start is None else f"goes on from {start.name}")
        stop = Stop(grace_seconds=run.grace_seconds, max_hours=run.max_hours)
        with raised(Stopped), naming(run.name), watched_by(Doctor(folder.path).report, run.hang_timeout_seconds):
            with all_stays():
                stage = _stage(run, folder, start, stop)
            outcome = asyncio.run(stop.guards(stage))
        log.note(f"{'finished' if outcome.is_finished else 'stopped'} after step {outcome.step}")
        return outcome


def _stage(run: Run, folder: RunFolder, start: Path | None, stop: Stop) -> Coroutine[Any, Any, Outcome]:
    """The stage's work, with its inputs read and checked already."""
    if isinstance(run, RlRun):
        return reinforce.train(run, reinforce.read_inputs(run, folder), folder, start, stop)
    if isinstance(run, RewardModelRun | DpoRun):
        inputs = preferences.read_inputs(run, folder)
    else:
        inputs = imitation.read_inputs(run, folder)
    return supervise.train(run, inputs, folder, start, stop)
