"""The command `wutong`, and what its exit codes mean: 0 done, 2 wrong input, 75 stopped but resumable, 1 all else."""

import logging
import shlex
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.logging import RichHandler

from cli.config import config
from cli.demo import demo
from cli.diff import diff
from cli.evaluate import evaluate
from cli.inspect import inspect
from cli.label import label
from cli.plan import plan
from cli.replay import replay
from cli.report import report
from cli.reward import app as reward_app
from cli.simulate import simulate
from cli.steer import scale, status, stop

FAILED, WRONG_INPUT, STOPPED_RESUMABLE = 1, 2, 75

logger = logging.getLogger(__name__)

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
for command in (config, demo, diff, evaluate, inspect, label, plan, replay, report, scale, simulate, status, stop):
    app.command()(command)
app.add_typer(reward_app, name="reward")

errors = Console(stderr=True)

Overrides = Annotated[list[str] | None, typer.Argument(help="settings to change, as dotted.key=value")]


@app.callback()
def wutong(verbose: Annotated[bool, typer.Option("--verbose", "-v", help="say more of what is done")] = False) -> None:
    """Reinforcement learning for language models on Ray, vLLM and DeepSpeed."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=errors, show_path=False, show_time=False)],
    )


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="a YAML file; configs/ has examples")],
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the newest checkpoint")] = False,
    exact: Annotated[
        bool, typer.Option("--exact", help="with --resume: refuse what would not go on bit for bit")
    ] = False,
    allow: Annotated[
        list[str] | None, typer.Option("--allow", help="with --resume: a key that may differ from the checkpoint's")
    ] = None,
) -> None:
    """Run one stage: pre-training, fine-tuning, a reward model, DPO or reinforcement learning."""
    from configs.load import load_run

    if (exact or allow) and not resume:
        raise ValueError("--exact and --allow say how to go on; they have no effect without --resume")
    run = load_run(recipe, overrides or [])
    from cluster.launch import launch  # takes seconds: not before the recipe is known to be sound

    outcome = launch(run, resume=resume, exact=exact, allow=allow or ())
    if not outcome.is_finished:
        again = shlex.join(
            ["wutong", "train", str(recipe), *(overrides or ()), "--resume", *(["--exact"] if exact else [])]
        )
        errors.print(f"stopped after step {outcome.step}; go on with: {again}", markup=False, soft_wrap=True)
        raise typer.Exit(STOPPED_RESUMABLE)


def main() -> None:
    """Run the command line. Wrong input and known failures are one line; anything else shows its traceback."""
    try:
        app()
    except ValueError as error:
        _end(error, WRONG_INPUT)
    except Exception as error:
        # Imported here: a run that fails has loaded all this, and other commands start faster without it.
        from cluster.failures import FAILURES, RESUMABLE

        if not isinstance(error, FAILURES):
            raise
        _end(error, STOPPED_RESUMABLE if isinstance(error, RESUMABLE) else FAILED)


def _end(error: Exception, code: int) -> NoReturn:
    logger.info("how it came about:", exc_info=error)  # shown with --verbose
    errors.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)
