"""The sinks of a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metrics.console_sink import ConsoleSink
from metrics.jsonl_sink import JsonlSink
from metrics.log_sink import LogSink
from metrics.sink import BestEffort, Sink
from metrics.tensorboard_sink import TensorBoardSink
from metrics.wandb_sink import WandbSink


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkOptions:
    """Which sinks a run has. `first_step` is the first that will be written, after a resume as well."""

    folder: Path
    run_name: str
    first_step: int
    num_steps: int
    tensorboard: bool = True
    wandb_project: str | None = None
    config: Mapping[str, Any]  # already without secrets: some sinks send it away


def open_sinks(options: SinkOptions) -> tuple[Sink, ...]:
    """The run's sinks. `metrics.jsonl` is the record: only its failures end a run."""
    sinks: list[Sink] = [
        JsonlSink(options.folder / "metrics.jsonl", first_step=options.first_step),
        ConsoleSink(num_steps=options.num_steps),
        BestEffort("run.log", LogSink(options.folder / "run.log", num_steps=options.num_steps)),
    ]
    if options.tensorboard:
        writer = TensorBoardSink(options.folder / "tensorboard", first_step=options.first_step)
        sinks.append(BestEffort("TensorBoard", writer))
    if options.wandb_project:
        remote = WandbSink(
            options.wandb_project, run_name=options.run_name, folder=options.folder, config=options.config
        )
        sinks.append(BestEffort("Weights & Biases", remote))
    return tuple(sinks)
