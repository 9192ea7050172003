"""`wutong demo`: the whole loop on this machine, and a table of what it learned."""

import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from cluster.exit_codes import STOPPED_RESUMABLE

if TYPE_CHECKING:  # importing the cluster takes a second
    from cluster.outcome import Outcome

console = Console()

RECIPES = Path(__file__).resolve().parent.parent / "configs" / "arithmetic"


def demo(
    output_dir: Annotated[Path | None, typer.Option(help="where the runs go; by default a new folder in runs/")] = None,
) -> None:
    """Make a small model, teach it arithmetic badly, and improve it with GRPO."""
    from cluster.launch import launch
    from cluster.session import ray_session
    from configs.load import load_run
    from configs.schema import ClusterConfig

    folder = output_dir or Path("runs") / f"demo-{datetime.now():%Y%m%d-%H%M%S}"
    begun = time.monotonic()
    outcomes: dict[str, tuple[Outcome, float]] = {}
    with ray_session(ClusterConfig(), num_cpus=4):
        for stage, model in (("pretrain", None), ("sft", "pretrain"), ("grpo", "sft")):
            stage_begun = time.monotonic()
            overrides = [f"name={stage}", f"output_dir={folder}"]
            overrides += [f"model.path={folder / model / 'export'}"] if model else []
            console.print(f"[bold]{stage}[/bold]  wutong train configs/arithmetic/{stage}.yaml {' '.join(overrides)}")
            outcome = launch(load_run(RECIPES / f"{stage}.yaml", overrides))
            outcomes[stage] = outcome, time.monotonic() - stage_begun
            if not outcome.is_finished:
                raise typer.Exit(STOPPED_RESUMABLE)
    console.print(_accuracy(outcomes["grpo"][0]))
    console.print(_times(outcomes, time.monotonic() - begun))
    console.print(f"everything is in {folder.resolve()}")


def _accuracy(outcome: "Outcome") -> Table:
    """Held-out greedy accuracy before and after reinforcement learning."""
    table = Table("held-out problems, greedy", "accuracy", "95 % interval", title="what GRPO learned")
    for when, metrics in (("before (after SFT)", outcome.first), ("after GRPO", outcome.last)):
        interval = f"{metrics['eval/accuracy_low']:.1%} to {metrics['eval/accuracy_high']:.1%}"
        table.add_row(when, f"{metrics['eval/accuracy']:.1%}", interval)
    gain = 100 * (outcome.last["eval/accuracy"] - outcome.first["eval/accuracy"])
    table.add_row("gain", f"{gain:+.1f} points", "")
    return table


def _times(stages: dict[str, tuple["Outcome", float]], total: float) -> Table:
    """Where the time went, stage by stage and phase by phase."""
    table = Table("stage", "phase", "seconds", title="where the time went")
    for stage, (outcome, seconds) in stages.items():
        table.add_row(stage, "all", f"{seconds:.0f}", style="bold")
        for phase, spent in outcome.seconds.items():
            table.add_row("", phase, f"{spent:.1f}")
        rest = max(0.0, seconds - sum(outcome.seconds.values()))
        table.add_row("", "starting, ending and all else", f"{rest:.1f}")
    table.add_row("demo", "all", f"{total:.0f}", style="bold")
    return table
