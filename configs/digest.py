"""A short name for what a run computes, stored in its checkpoints."""

import hashlib

from configs.schema import BaseRun

# What may differ between a run and its continuation without changing what is computed.
_SURROUNDINGS = {"name", "output_dir", "num_steps", "checkpoint", "logging", "cluster"}


def config_digest(run: BaseRun) -> str:
    """Equal for runs that do the same, wherever and for however long they do it."""
    return hashlib.sha256(run.model_dump_json(exclude=_SURROUNDINGS).encode()).hexdigest()[:16]
