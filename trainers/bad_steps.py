"""Steps whose gradients are not finite: skipped by the ranks, counted here, kept for a look when there are too many."""

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from experience.records import Batch, BlockHandle, TokenBlock
from metrics.waits import waited

ReadBlock = Callable[[BlockHandle], Awaitable[TokenBlock]]

TENSORS, FACTS = "batch.safetensors", "batch.json"


class TooManyBadSteps(RuntimeError):
    """The gradients of too many steps in a row were not finite."""


class BadSteps:
    """Counts bad steps in a row. One is bad when any of its optimiser steps was skipped, on all ranks as always."""

    def __init__(self, *, max_bad_steps: int, folder: Path, read_block: ReadBlock | None = None) -> None:
        """`folder`: the run's. `read_block`: gives the tokens behind a handle; None where batches hold them."""
        self._max_bad_steps, self._folder, self._read_block = max_bad_steps, folder, read_block
        self._in_a_row = 0

    async def check(
        self, step: int, metrics: Mapping[str, float], batch_of: Callable[[], Batch], prompts: Sequence[Any] = ()
    ) -> None:
        """TooManyBadSteps, with the step's batch written to disk, when step `step` is one too many.

        `metrics`: the learner's. `prompts`: what JSON can hold of each prompt of the batch.
        """
        is_bad = any(value > 0 for name, value in metrics.items() if name.endswith("/skipped_steps"))
        self._in_a_row = self._in_a_row + 1 if is_bad else 0
        if self._in_a_row <= self._max_bad_steps:
            return
        folder = self._folder / f"bad_step_{step:06d}"
        batch = batch_of()
        blocks = [await self._block(handle) for handle in batch.blocks]
        facts = {"step": step, "prompts": prompts, "metrics": metrics}
        written = asyncio.to_thread(write_batch, folder, batch, blocks, facts)
        await waited(written, what=f"the batch of step {step}", owner="disk")
        raise TooManyBadSteps(
            f"the gradients of {self._in_a_row} steps in a row, up to step {step}, were not finite "
            f"(trainer.max_bad_steps={self._max_bad_steps}); weights are as before them; the last batch: {folder}"
        )

    async def _block(self, handle: BlockHandle) -> TokenBlock:
        if isinstance(handle, TokenBlock):
            return handle
        assert self._read_block is not None, "the blocks of this batch are handles"
        return await self._read_block(handle)


def write_batch(folder: Path, batch: Batch, blocks: Sequence[TokenBlock], facts: Mapping[str, Any]) -> None:
    """The tokens of every block, and as JSON `facts` with the items of each optimiser step by rank."""
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier start of the run
    folder.mkdir()
    columns = ("offsets", "tokens", "response_mask", "rollout_logprobs", "versions")
    tensors = {
        f"block_{number}.{column}": np.ascontiguousarray(getattr(block, column))
        for number, block in enumerate(blocks)
        for column in columns
    }
    save_file(tensors, folder / TENSORS)
    (folder / FACTS).write_text(json.dumps({**facts, "mini_batches": [asdict(each) for each in batch.mini_batches]}))
