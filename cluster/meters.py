"""The meter of a run, with every place that its metrics go."""

from cluster.folder import RunFolder
from configs.redaction import redact
from configs.schema import BaseRun
from metrics.meter import Meter
from metrics.sink import Sink
from metrics.sinks import SinkOptions, open_sinks


def open_meter(run: BaseRun, folder: RunFolder, steps_done: int, *watchers: Sink) -> Meter:
    """`steps_done`: by an earlier part of the run, whose lines stay; step 0 is the state before training."""
    options = SinkOptions(
        folder=folder.path,
        run_name=run.name,
        first_step=steps_done + 1 if steps_done else 0,
        num_steps=run.num_steps,
        tensorboard=run.logging.tensorboard,
        wandb_project=run.logging.wandb_project,
        config=redact(run.model_dump()),
    )
    return Meter([*open_sinks(options), *watchers])
