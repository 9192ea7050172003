"""A recorded run's speed as a simulation's: one free factor, fitted on that run itself."""

from dataclasses import replace
from pathlib import Path

from cluster.plan_machines import Machines
from cluster.plan_speed import Assumptions
from cluster.recorded import Recorded, recorded
from cluster.simulate import Timing, planned_timing, simulate
from configs.load import load_run
from configs.schema import RlRun

_NUM_STEPS = 8  # of the simulation that the factor is fitted on


def recorded_timing(run: RlRun, folder: Path, machines: Machines) -> Timing:
    """Speed and lengths of the run in `folder`, for another recipe of the same model on the same machines.

    Training costs what it cost there by the token. A decoding step has the shape that the model's sizes give it,
    times the factor with which a simulation of the recorded recipe generates as long as the run did.
    """
    facts = recorded(folder)
    recipe = load_run(folder / "config.yaml")
    if not isinstance(recipe, RlRun) or recipe.rollout.max_staleness:
        raise ValueError(
            f"--from {folder}: want a reinforcement learning run with rollout.max_staleness=0, in which generating "
            "and training take turns: what overlaps can't be told apart"
        )
    if recipe.algorithm.updates_per_batch != run.algorithm.updates_per_batch:
        raise ValueError(
            f"--from {folder}: took {recipe.algorithm.updates_per_batch} updates a step and the recipe takes "
            f"{run.algorithm.updates_per_batch}; record a run with the same algorithm.epochs and mini_batches"
        )
    raw = _timing(recipe, facts, machines)
    short = recipe.model_copy(update={"num_steps": _NUM_STEPS})
    simulated = simulate(short, raw)
    generated = simulated.step_seconds * (1 - simulated.trainer_share - simulated.sync_share) - facts.scoring
    factor = facts.generating / generated
    fitted = _timing(run, facts, machines)
    return replace(fitted, token_seconds=lambda running: factor * fitted.token_seconds(running), source=str(folder))


def _timing(run: RlRun, facts: Recorded, machines: Machines) -> Timing:
    planned = planned_timing(run, machines, Assumptions(), facts.lengths)
    return replace(
        planned,
        update_seconds=lambda num_tokens: facts.training * num_tokens / facts.tokens_per_step,
        sync_seconds=facts.syncing + facts.other,
        score_seconds=facts.scoring,
        prompt_tokens=facts.prompt_tokens,
    )
