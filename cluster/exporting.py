"""A trained stage's model at a place of the user's choice."""

import asyncio
import json
import shutil
from pathlib import Path

import ray

from actors.learner import PolicyLearner
from actors.trainer import TrainerGroup
from algorithms.table import resolve
from cluster import imitation, preferences, rl_specs, supervise
from cluster.cpus import learner_cpus, run_cpus
from cluster.folder import RunFolder
from cluster.session import ray_session
from configs.load import load_run
from configs.schema import DpoRun, ExportStage, RewardModelRun, RlRun, Run
from trainers import checkpoint
from trainers.best import NOTE


def export(stage: ExportStage, folder: RunFolder) -> str:
    """Make the folder that `to` names; says of which step. ValueError where no checkpoint was judged."""
    source, place = Path(stage.run), Path(stage.to).absolute()
    kept = checkpoint.all_checkpoints(source / "checkpoints")
    chosen = kept[-1] if stage.checkpoint == "newest" else _best(source / "checkpoints")
    if chosen == _ended_with(kept[-1]):  # that is exported already
        from trainers.export import export_folder  # loads DeepSpeed, which the other stages leave to their ranks

        with export_folder(place) as draft:
            shutil.copytree(source / "export", draft, dirs_exist_ok=True)
    else:
        run = load_run(source / "config.yaml").model_copy(update={"output_dir": str(folder.path), "name": "source"})
        asyncio.run(_export(run, chosen, place))
    return f"step {checkpoint.step_of(chosen)}"


def _ended_with(newest: Path) -> Path:
    """The checkpoint whose weights a finished run ended with: the newest, unless its guard chose another."""
    step = (checkpoint.read_state(newest).get("guard") or {}).get("ended_with")
    return newest if step is None else checkpoint.folder_of(newest.parent, step)


def _best(checkpoints: Path) -> Path:
    try:
        note = json.loads((checkpoints / NOTE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"checkpoint=best: {checkpoints} holds no {NOTE}; set checkpoint.keep_best (and every_steps) of that stage"
        ) from None
    return checkpoints / note["best"]


async def _export(run: Run, chosen: Path, place: Path) -> None:
    """Load the checkpoint into ranks as it was written by, and have them write it."""
    if isinstance(run, RlRun):
        objective = rl_specs.policy_objective(run, resolve(run.algorithm))
        with ray_session(run.cluster, num_cpus=learner_cpus(run)):
            spec = rl_specs.learner_spec(run, objective, use_gpu=ray.cluster_resources().get("GPU", 0) > 0)
            learner = await PolicyLearner.start(spec)
            try:
                await learner.load(chosen)
                await learner.export(place)
            finally:
                learner.close()
        return
    rooms = preferences if isinstance(run, RewardModelRun | DpoRun) else imitation
    own = RunFolder(run)
    own.path.mkdir(parents=True, exist_ok=True)
    inputs = rooms.read_inputs(run, own)  # type: ignore[arg-type]
    with ray_session(run.cluster, num_cpus=run_cpus(run)):
        group = await TrainerGroup.start(supervise.learner_spec(run, inputs))
        try:
            await group.load(chosen)
            await group.export(place, await supervise.normalization(inputs, group))
        finally:
            group.close("exported")
