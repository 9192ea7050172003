"""Checkpoints for another number of ranks."""

import shutil
from argparse import Namespace
from pathlib import Path

from deepspeed.checkpoint import ds_to_universal


def make_universal(shards: Path, target: Path) -> None:
    """Rewrite what the ranks of an engine saved, so that any number of ranks can load it. One process does it alone.

    The shards are pickles: verify their manifest first (trainers/checkpoint.py).
    """
    if not any(shards.glob("*optim_states.pt")):
        # Without ZeRO every rank holds the whole, and any number can load it as it is.
        shutil.copytree(shards, target)
        return
    ds_to_universal.main(
        Namespace(
            input_folder=str(shards),
            output_folder=str(target),
            num_extract_workers=1,  # more would be forks of a process that holds a model
            num_merge_workers=1,
            keep_temp_folder=False,
            strict=True,
            inject_missing_state=True,  # asks for no more than what every checkpoint of ours has
        )
    )
