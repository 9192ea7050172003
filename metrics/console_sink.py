"""Metrics for people: a live bar on a terminal, one line a step anywhere else."""

import math
from collections.abc import Mapping
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

# The numbers that tell whether a run goes well, in reading order; those that a step lacks are left out.
SHOWN: Final[Mapping[str, str]] = {
    "supervised/loss": "loss {:.4f}",
    "eval/loss": "held-out loss {:.4f}",
    "eval/accuracy": "held-out accuracy {:.1%}",
    "reward/mean": "reward {:.3f}",
    "response/length_mean": "length {:.0f}",
    "response/truncated_fraction": "cut {:.0%}",
    "group/equal_fraction": "equal groups {:.0%}",
    "policy/entropy": "entropy {:.2f}",
    "policy/kl_ref": "KL {:.4f}",
    "mismatch/kl": "mismatch {:.1e}",
    "optimizer/grad_norm": "gradient {:.2f}",
    "staleness/mean": "staleness {:.1f}",
    "throughput/tokens_per_second": "{:.0f} tokens/s",
    "throughput/mfu": "MFU {:.1%}",
    "time/step": "{:.1f} s",
}


class ConsoleSink:
    """Shows the main numbers of each step."""

    def __init__(self, *, num_steps: int, console: Console | None = None) -> None:
        self._num_steps = num_steps
        # stderr: stdout belongs to what a command answers.
        self._console = console or Console(stderr=True)
        self._progress: Progress | None = None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Show one step."""
        text = summary_line(values)
        if not self._console.is_terminal:
            self._console.print(f"step {step}/{self._num_steps}  {text}", highlight=False, markup=False, soft_wrap=True)
            return
        if self._progress is None:  # not before the first step, so that start-up messages stand above the bar
            self._progress = self._start()
        self._progress.update(self._progress.task_ids[0], completed=step, numbers=text)

    def close(self) -> None:
        """Leave the last state on the screen."""
        if self._progress is not None:
            self._progress.stop()

    def _start(self) -> Progress:
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        progress = Progress(*columns, TextColumn("{task.fields[numbers]}", markup=False), console=self._console)
        progress.add_task("", total=self._num_steps, numbers="")
        progress.start()
        return progress


def summary_line(values: Mapping[str, float]) -> str:
    """The main numbers of a step in one line; non-finite ones are shown as they are, since they matter."""
    parts = []
    for name, template in SHOWN.items():
        if name in values:
            value = values[name]
            # A percentage of NaN would read "nan%"; the name alone says more.
            parts.append(template.format(value) if math.isfinite(value) else f"{name} {value}")
    return "  ".join(parts)
