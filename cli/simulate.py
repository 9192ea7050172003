"""`wutong simulate`: the real loop against modelled engines, on a virtual clock."""

import json
from itertools import product
from pathlib import Path
from typing import Annotated

import typer

from cluster.plan_machines import Wishes, machines_of


def simulate(
    recipe: Annotated[Path, typer.Argument(help="a YAML file of stage rl")],
    overrides: Annotated[list[str] | None, typer.Argument(help="settings to change, as dotted.key=value")] = None,
    workers: Annotated[str | None, typer.Option("--workers", help="to try, as 4,8; none: the recipe's")] = None,
    staleness: Annotated[str | None, typer.Option("--staleness", help="to try, as 0,1; none: the recipe's")] = None,
    steps: Annotated[int, typer.Option("--steps", min=2, help="training steps of each")] = 20,
    lengths: Annotated[
        str | None, typer.Option("--lengths", help="of responses: tail:MEAN:SIGMA (log-normal) or constant:TOKENS")
    ] = None,
    source: Annotated[Path | None, typer.Option("--from", help="lengths and speed of this run's folder")] = None,
    gpus: Annotated[bool, typer.Option("--gpus/--cpus", help="devices of the speed's model")] = False,
    gpu: Annotated[str, typer.Option("--gpu", help="which: H100, H200, A100 ...")] = "H100",
    mfu: Annotated[float, typer.Option("--mfu", help="share of the peak that training reaches")] = 0.4,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Print what workers and staleness make of a step: waiting, utilisation, staleness of the samples.

    Everything but the engines is the run's own: loop, buffer, credit and packing.
    """
    from cluster.plan_speed import Assumptions
    from cluster.simulate import parse_lengths, planned_timing, simulate, varied
    from cluster.simulate_text import simulations_json, simulations_text
    from cluster.simulate_timing import recorded_timing
    from configs.load import load_run
    from configs.schema import RlRun

    run = load_run(recipe, overrides or [])
    if not isinstance(run, RlRun):
        raise ValueError(f"stage={run.stage}: only stage rl samples, and has workers and staleness to simulate")
    if source is not None and (lengths is not None or gpus):
        raise ValueError("--from has no use for --lengths and --gpus: a recorded run has lengths and speed of its own")
    machines = machines_of(Wishes(num_gpus=1 if gpus else 0, gpu=gpu))
    if source is not None:
        timing = recorded_timing(run, source, machines)
    else:
        longest = run.rollout.sampling.max_response_tokens
        sample = None if lengths is None else parse_lengths(lengths, longest)
        timing = planned_timing(run, machines, Assumptions(mfu=mfu), sample)
    tried = product(_numbers(workers, "--workers", 1), _numbers(staleness, "--staleness", 0))
    found = [simulate(varied(run, steps, count, bound), timing) for count, bound in tried]
    if as_json:
        print(json.dumps(simulations_json(found, timing), indent=1))
    else:
        print(simulations_text(found, timing), end="")


def _numbers(text: str | None, option: str, least: int) -> list[int | None]:
    """`4,8` as numbers; [None] where nothing is said."""
    if text is None:
        return [None]
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} {text}: want numbers, such as 4,8") from None
    if min(numbers) < least:
        raise ValueError(f"{option} {text}: want numbers of at least {least}")
    return list(numbers)
