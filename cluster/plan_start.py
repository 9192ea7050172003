"""The plan that a run's folder gets before anything is started, and the refusal of what can't fit."""

import logging
from pathlib import Path

import psutil

from cluster.plan import Plan, make_plan
from cluster.plan_machines import Machines, Wishes, machines_of
from cluster.plan_text import plan_text
from configs.schema import Run

logger = logging.getLogger(__name__)

MARGIN = 1.15  # how far plans were off at most, where they were held against measured memory (benchmarks/plan.md)


def plan_at_start(run: Run, file: Path) -> None:
    """Write the plan for this machine. ValueError where a known device can't hold its part.

    Models that can't be planned are trained all the same: the file then says why there is no plan.
    """
    if run.cluster.address is not None:
        file.write_text(f"no plan of a cluster's nodes; see `wutong plan --address {run.cluster.address}`\n")
        return
    try:
        plan = make_plan(run, _this_machine())
    except ValueError as error:
        file.write_text(f"no plan: {error}\n")
        logger.info("no plan: %s", error)
        return
    file.write_text(plan_text(plan))
    check_fits(plan)


def check_fits(plan: Plan) -> None:
    """ValueError where a role's peak is beyond its device, by more than plans err; a warning where it is near."""
    far = [role for role in plan.roles if role.capacity is not None and role.peak.total > MARGIN * role.capacity]
    for problem in plan.problems:
        if any(problem.startswith(f"{role.role.name}: ") for role in far):
            raise ValueError(f"does not fit: {problem} (the whole plan: `wutong plan`)")
        logger.warning("may not fit: %s", problem)


def _this_machine() -> Machines:
    import torch  # takes seconds

    num_gpus = torch.cuda.device_count()
    if not num_gpus:
        return Machines(host_memory=psutil.virtual_memory().total)
    properties = torch.cuda.get_device_properties(0)
    return machines_of(
        Wishes(
            num_gpus=num_gpus,
            gpu=properties.name,
            gpu_memory=properties.total_memory,
            host_memory=psutil.virtual_memory().total,
        )
    )
