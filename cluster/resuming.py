"""From which checkpoint a run may go on: one that is whole, and was made by this recipe but for what may change."""

import asyncio
import difflib
import json
import logging
from collections.abc import Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Any

from cluster.folder import RunFolder
from configs.flat import covers, flat
from configs.redaction import redact
from configs.schema import BaseRun
from metrics.waits import waited
from trainers import checkpoint
from trainers.saving import Snapshot, state_snapshot

logger = logging.getLogger(__name__)

RECIPE = "recipe.json"

# Where, how long and how closely watched a run goes on changes nothing of what it computes.
SURROUNDINGS = (
    "name",
    "output_dir",
    "logging",
    "checkpoint",
    "cluster",
    "max_hours",
    "grace_seconds",
    "hang_timeout_seconds",
    "evaluation",
    "eval_every_steps",
    "eval_sequences",
    "eval_comparisons",
    "trainer.placement",
    "critic.placement",
    "reference.placement",
    "rollout.placement",
    "reward_model.placement",
    "trainer.peak_tflops",
    "trainer.collective_timeout_seconds",
    "trainer.max_restarts",
    "trainer.max_bad_steps",
    "rollout.start_timeout_seconds",
    "rollout.progress_timeout_seconds",
    "rollout.max_restarts",
    "reward_model.start_timeout_seconds",
    "reward_model.timeout_seconds",
    "reward_model.max_restarts",
)
# May change too, but what follows is not bit for bit what would have followed.
SIZES = (
    "num_steps",
    "trainer.num_ranks",
    "critic.num_ranks",
    "reference.num_ranks",
    "rollout.num_workers",
    "rollout.autoscale",
    "rollout.slow_worker_factor",
    "rollout.backup_leases",
    "reward_pool.num_processes",
    "reward_model.num_replicas",
)
# No --allow helps: the shards would fit nothing.
SHAPES = ("stage", "model.new", "model.lora", "trainer.zero_stage", "critic.zero_stage")


def run_snapshot(
    run: BaseRun,
    state: Mapping[str, Any],
    held_out: Mapping[str, float] | None = None,
    by_prompt: Mapping[str, Sequence[float]] | None = None,
) -> Snapshot:
    """Writes the state with what was measured at its step, and the recipe without its secrets."""
    columns = {name: [None if isnan(v) else v for v in values] for name, values in (by_prompt or {}).items()}
    measured = {checkpoint.HELD_OUT: held_out or {}, **({checkpoint.BY_PROMPT: columns} if columns else {})}
    write_state = state_snapshot({**state, **measured})
    recipe = json.dumps(_recipe(run), indent=1) + "\n"

    async def write(draft: Path) -> None:
        await write_state(draft)
        written = asyncio.to_thread((draft / RECIPE).write_text, recipe, encoding="utf-8")
        await waited(written, what="the recipe of a checkpoint", owner="disk")

    return write


def checkpoint_to_resume(
    run: BaseRun, folder: RunFolder, *, exact: bool, allow: Sequence[str], on_trust: bool = False
) -> Path | None:
    """The newest checkpoint that is whole; None where the run was stopped before its first.

    `on_trust`: also one that somebody else wrote; it counts as this user's then.

    ValueError where nothing was begun, where its recipe differs in a key that is neither allowed nor free to change,
    and, if it is to be `exact`, where the newest one is damaged or SIZES differ.
    """
    if exact and allow:
        raise ValueError(f"--allow {allow[0]} with --exact: a changed recipe does not go on exactly; leave one out")
    newest = _newest(folder, exact=exact, on_trust=on_trust)
    if newest is not None:
        _check_recipe(newest, run, free=SURROUNDINGS if exact else (*SURROUNDINGS, *SIZES), allow=allow)
        if on_trust:
            checkpoint.trust(newest)
    elif folder.metrics.exists():
        logger.warning("%s: no checkpoint yet; the run begins again", folder.checkpoints)
    else:
        raise ValueError(f"{folder}: nothing to resume there; run without --resume, or check name and output_dir")
    return newest


def is_same_recipe(folder: Path, run: BaseRun) -> bool:
    """Whether a checkpoint was made by this recipe, but for what is free to change."""
    return not _differences(folder, run, free=(*SURROUNDINGS, *SIZES))


def _newest(folder: RunFolder, *, exact: bool, on_trust: bool) -> Path | None:
    if not exact:
        return checkpoint.latest_valid(folder.checkpoints, on_trust=on_trust)
    found = checkpoint.all_checkpoints(folder.checkpoints)
    if found:
        checkpoint.verify(found[-1], on_trust=on_trust)
    return found[-1] if found else None


def _check_recipe(folder: Path, run: BaseRun, *, free: Sequence[str], allow: Sequence[str]) -> None:
    known = [*flat(_recipe(run)), *flat(_read(folder))]
    for key in allow:
        if not any(covers(key, path) for path in known):
            near = difflib.get_close_matches(key, known, n=1)
            raise ValueError(f"--allow {key}: not a key of the recipe" + (f"; did you mean {near[0]}?" if near else ""))
    differences = _differences(folder, run, free=(*free, *allow))
    for key, (old, new) in _differences(folder, run, free=free).items():
        if any(covers(shape, key) for shape in SHAPES):
            raise ValueError(
                f"{folder}: {key}={old!r} when it was written, now {new!r}: its shards do not fit; set it back"
            )
    if differences:
        listed = ", ".join(f"{key} ({old!r}, now {new!r})" for key, (old, new) in differences.items())
        raise ValueError(
            f"{folder}: its recipe differs in {listed}; set each back, or resume with --allow KEY for each"
        )


def _differences(folder: Path, run: BaseRun, *, free: Sequence[str]) -> dict[str, tuple[Any, Any]]:
    """What each key that is not free was and is; None where it was not there."""
    was, now = flat(_read(folder)), flat(_recipe(run))
    keys = [*was, *(key for key in now if key not in was)]
    return {
        key: (was.get(key), now.get(key))
        for key in keys
        if was.get(key) != now.get(key) and not any(covers(section, key) for section in free)
    }


def _recipe(run: BaseRun) -> dict[str, Any]:
    return redact(run.model_dump(mode="json"))


def _read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / RECIPE).read_text(encoding="utf-8"))
