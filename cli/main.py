"""The command `wutong`, and what its exit codes mean: 0 done, 2 wrong input, 75 stopped but resumable, 1 all else."""

import logging
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.logging import RichHandler

from actors.garbage import all_stays
from cli.config import config
from cli.demo import demo
from cli.diff import diff
from cli.evaluate import evaluate
from cli.going_on import Allow, Exact, Resume, check_going_on
from cli.inspect import inspect
from cli.label import label
from cli.logs import logs
from cli.plan import plan
from cli.replay import replay
from cli.report import report
from cli.reward import app as reward_app
from cli.run import run, stage_process
from cli.simulate import simulate
from cli.steer import scale, status, stop
from cli.submit import submit
from cli.trust import InsecureCluster, TrustCheckpoint
from cluster.exit_codes import FAILED, STOPPED_RESUMABLE, WRONG_INPUT
from metrics.safe_log import SafeFormatter, safe

logger = logging.getLogger(__name__)

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
for command in (
    config, demo, diff, evaluate, inspect, label, logs, plan, replay, report, run, scale, simulate, status, stop,
    submit,
):  # fmt: skip
    app.command()(command)
app.command(hidden=True)(stage_process)
app.add_typer(reward_app, name="reward")

errors = Console(stderr=True)

Overrides = Annotated[list[str] | None, typer.Argument(help="settings to change, as dotted.key=value")]


@app.callback()
def wutong(verbose: Annotated[bool, typer.Option("--verbose", "-v", help="say more of what is done")] = False) -> None:
    """Reinforcement learning for language models on Ray, vLLM and DeepSpeed."""
    handler = RichHandler(console=errors, show_path=False, show_time=False)
    handler.setFormatter(SafeFormatter("%(message)s"))
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler])


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="a YAML file; configs/ has examples")],
    overrides: Overrides = None,
    resume: Resume = False,
    exact: Exact = False,
    allow: Allow = None,
    trust_checkpoint: TrustCheckpoint = False,
    insecure_cluster: InsecureCluster = False,
) -> None:
    """Run one stage: pre-training, fine-tuning, a reward model, DPO or reinforcement learning."""
    from configs.load import load_run

    check_going_on(resume=resume, exact=exact, allow=allow, trust_checkpoint=trust_checkpoint)
    run = load_run(recipe, [*(overrides or ()), *(["cluster.insecure=true"] if insecure_cluster else ())])
    with all_stays():
        from cluster.launch import launch  # takes seconds: not before the recipe is known to be sound

    outcome = launch(run, resume=resume, exact=exact, allow=allow or (), on_trust=trust_checkpoint)
    if not outcome.is_finished:
        again = _again(recipe, overrides or (), exact=exact, insecure_cluster=insecure_cluster)
        errors.print(f"stopped after step {outcome.step}; go on with: {again}", markup=False, soft_wrap=True)
        raise typer.Exit(STOPPED_RESUMABLE)


def _again(recipe: Path, overrides: Sequence[str], *, exact: bool, insecure_cluster: bool) -> str:
    """The command that goes on with a run: in a job, the one that its user gives on a machine of theirs."""
    is_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    changes = [change for change in overrides if not (is_job and change == "cluster.address=auto")]
    flags = {"--exact": exact, "--insecure-cluster": insecure_cluster}
    options = ["--resume", *(flag for flag, is_given in flags.items() if is_given)]
    return shlex.join(["wutong", "submit" if is_job else "train", str(recipe), *changes, *options])


def main() -> None:
    """Run the command line. Wrong input and known failures are one line; anything else shows its traceback."""
    sys.excepthook = _show_traceback
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


def _show_traceback(kind: type[BaseException], error: BaseException, frames: TracebackType | None) -> None:
    sys.stderr.write(safe("".join(traceback.format_exception(kind, error, frames))))


def _end(error: Exception, code: int) -> NoReturn:
    logger.info("how it came about:", exc_info=error)  # shown with --verbose
    errors.print(safe(str(error)), style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)
