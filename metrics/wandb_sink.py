"""Metrics sent to Weights & Biases, where the package is installed and a project is named."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class WandbSink:
    """One W&B run, which goes on under the same id when the run is resumed.

    `config` must hold no secrets. ValueError when the package is not installed; the service itself
    is not called before the first write.
    """

    def __init__(self, project: str, *, run_name: str, folder: Path, config: Mapping[str, Any]) -> None:
        try:
            self._wandb = importlib.import_module("wandb")
        except ModuleNotFoundError as error:
            raise ValueError(
                f"logging.wandb_project={project!r}: run `pip install wandb`, or set it to null"
            ) from error
        self._settings = {
            "project": project,
            "name": run_name,
            "id": run_name,
            "dir": str(folder),
            "config": dict(config),
        }
        self._run: Any = None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Send one step."""
        if self._run is None:
            self._run = self._wandb.init(resume="allow", **self._settings)
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Wait until all is sent."""
        if self._run is not None:
            self._run.finish()
