"""The command `wutong`, and what its exit codes mean: 0 done, 2 wrong input, 75 stopped but resumable, 1 all else."""

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler

from cli.config import config
from cli.demo import demo
from cli.evaluate import evaluate
from cli.reward import app as reward_app

STOPPED_RESUMABLE = 75

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
for command in (config, demo, evaluate):
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
) -> None:
    """Run one stage: pre-training, supervised fine-tuning or reinforcement learning."""
    from cluster.launch import launch
    from configs.load import load_run

    outcome = launch(load_run(recipe, overrides or []), resume=resume)
    if not outcome.is_finished:
        errors.print(f"stopped after step {outcome.step}; go on with: wutong train {recipe} --resume")
        raise typer.Exit(STOPPED_RESUMABLE)


def main() -> None:
    """Run the command line; an error of the user's input is one line and exit code 2."""
    try:
        app()
    except ValueError as error:
        errors.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
