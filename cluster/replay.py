"""Replaying a step: its stored samples, learned from once more by the weights that learned from them."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from actors.learner import PolicyLearner
from algorithms.table import resolve
from cluster import rl_specs
from cluster.cpus import learner_cpus
from cluster.folder import RunFolder
from cluster.inputs import make_mixer, trained_tokenizer
from cluster.session import ray_session
from configs.load import load_run
from configs.schema import RlRun
from experience.records import Group
from experience.stored_groups import read_groups
from metrics.meter import Meter
from metrics.names import PASSING
from trainers import checkpoint
from trainers.ahead import Ahead
from trainers.credit import CreditAssigner


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What was logged about the step, and what the replay gave, for the metrics of the ranks; both by name.

    `is_same_recipe`: nothing was changed, so that the two must agree.
    """

    logged: Mapping[str, float]
    replayed: Mapping[str, float]
    is_same_recipe: bool

    def differences(self, tolerance: float) -> dict[str, float]:
        """Relative differences above `tolerance` of metrics that both have."""
        pairs = {name: (self.logged[name], self.replayed[name]) for name in self.logged.keys() & self.replayed.keys()}
        relative = {name: abs(a - b) / max(abs(a), abs(b), 1e-12) for name, (a, b) in pairs.items()}
        return {name: value for name, value in sorted(relative.items()) if value > tolerance}


def replay(folder: Path, step: int, overrides: Sequence[str] = (), *, on_trust: bool = False) -> Replay:
    """Learn from the samples of `step` again, with `overrides` of the recipe; the run's folder stays as it is.

    `on_trust`: a checkpoint that somebody else wrote is signed as this user's first.

    ValueError when the step's samples, or the weights before it, were not kept.
    """
    run = load_run(folder / "config.yaml", overrides)
    if not isinstance(run, RlRun):
        raise ValueError(f"{folder}: a run of stage {run.stage!r}; only steps of reinforcement learning are replayed")
    place = RunFolder(
        run.model_copy(update={"output_dir": str(folder.resolve().parent), "name": folder.resolve().name})
    )
    logged = _logged(place.metrics, step)
    samples = place.trajectories / f"step_{step:06d}.parquet"
    if not samples.is_file():
        raise ValueError(f"{samples}: not there; set logging.trajectories_every_steps so that this step is stored")
    before = _weights_before(place.checkpoints, step)
    if before is not None and on_trust:
        checkpoint.trust(before)
    metrics = asyncio.run(_learn_again(run, place, read_groups(samples), step, before))
    steady = {name: value for name, value in metrics.items() if not name.startswith(PASSING)}
    return Replay(
        logged={name: logged[name] for name in steady if name in logged},
        replayed=steady,
        is_same_recipe=not overrides,
    )


async def _learn_again(
    run: RlRun, place: RunFolder, groups: Sequence[Group], step: int, before: Path | None
) -> Mapping[str, float]:
    algorithm = resolve(run.algorithm)
    objective = rl_specs.policy_objective(run, algorithm)
    mixer = make_mixer(run, run.mix, trained_tokenizer(run), place)
    assigner = CreditAssigner(algorithm, rl_specs.batch_shape(run), mixer)
    with ray_session(run.cluster, num_cpus=learner_cpus(run)):
        use_gpu = ray.cluster_resources().get("GPU", 0) > 0
        learner = await PolicyLearner.start(rl_specs.learner_spec(run, objective, use_gpu=use_gpu))
        try:
            if before is not None:
                state = await learner.load(before)
                assigner.restore(state["assigner"])
            async with Ahead(learner, assigner.shape, Meter()).all_scored(groups) as blocks:
                return await learner.update(assigner.credit(groups, step - 1, blocks).batch)
        finally:
            learner.close()


def _logged(metrics: Path, step: int) -> dict[str, Any]:
    """The step's line; the last one, where a resumed run went over the step again."""
    if not metrics.is_file():
        raise ValueError(f"{metrics}: not there; RUN is a run's folder, such as runs/my-first-run")
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    found = [line for line in lines if line["step"] == step]
    if step < 1 or not found:
        steps = [line["step"] for line in lines]
        raise ValueError(f"STEP={step}: the run has steps 1 to {max(steps, default=0)}")
    return found[-1]


def _weights_before(checkpoints: Path, step: int) -> Path | None:
    """The checkpoint that step `step` began with; None for the first, which began with `model.path`."""
    if step == 1:
        return None
    folder = checkpoint.folder_of(checkpoints, step - 1)
    if not folder.is_dir():
        kept = [checkpoint.step_of(path) for path in checkpoint.all_checkpoints(checkpoints)]
        raise ValueError(
            f"{folder}: not there; the run began with model.path, and keeps the weights after steps {kept}: the step "
            "after one of these can be replayed (checkpoint.every_steps and checkpoint.keep_last decide)"
        )
    return folder
