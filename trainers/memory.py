"""Running out of memory, told in one line: which key to change, and to what."""

import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch

from configs.schema.model import ModelConfig
from configs.schema.training import TrainerConfig
from experience.records import Batch

_GIB = 2**30
_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": _GIB}
_REQUEST = re.compile(r"allocate ([\d.]+) (bytes|[KMG]iB)")


class OutOfMemory(RuntimeError):
    """A pass did not fit. The message names the key to change and a value to try."""


@contextmanager
def out_of_memory_told(model: ModelConfig, trainer: TrainerConfig, part: Batch) -> Iterator[None]:
    """Raise OutOfMemory in place of whatever an allocator says while a rank works on its part of a batch."""
    free = free_bytes()
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        # The traceback keeps alive what the pass had made when it failed: with what it asked for, its least need.
        needed = free - free_bytes() + _requested_bytes(error)
        raise OutOfMemory(advice(model, trainer, part, free=free, needed=needed)) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator, of the device or of the host, found no room."""
    is_told = "can't allocate memory" in str(error) or "Cannot allocate memory" in str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or is_told


def advice(model: ModelConfig, trainer: TrainerConfig, part: Batch, *, free: int, needed: int) -> str:
    """One line. `free`: bytes before the pass; `needed`: those that it had taken and asked for when it failed."""
    batches = (*part.mini_batches, *part.mixed)
    passes = [micro_batch for batch in batches for micro_batch in batch.ranks[0] if micro_batch]
    most = max((sum(item.num_tokens for item in items) for items in passes), default=0)
    longest = max((item.num_tokens for items in passes for item in items), default=0)
    # How far the pass had come nobody knows: one that failed half way through its forward needs four times as much.
    fits = int(most * min(1.0, free / max(needed, 1)) / 4)
    lead = f"out of memory in a pass of up to {most} tokens with {free / _GIB:.2f} GiB free"
    others = _others(model, trainer)
    if fits >= longest:
        return f"{lead}: try trainer.tokens_per_micro_batch={fits} (now {trainer.tokens_per_micro_batch}), or {others}"
    return f"{lead}, which would hold about {fits}, and one sequence has {longest}: {others}, or shorten the sequences"


def _others(model: ModelConfig, trainer: TrainerConfig) -> str:
    """What else saves memory, and is not done yet."""
    if not model.gradient_checkpointing:
        return "model.gradient_checkpointing=true"
    if trainer.zero_stage < 3 and trainer.num_ranks > 1:
        return "trainer.zero_stage=3"
    if torch.cuda.is_available() and not trainer.offload_optimizer:
        return "trainer.offload_optimizer=true"
    return "add ranks and set trainer.sequence_parallel_size to their number"


def free_bytes() -> int:
    """What this process may still take: of its device, else of the host within its own limit."""
    if torch.cuda.is_available():
        unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return torch.cuda.mem_get_info()[0] + unused
    bounds = [psutil.virtual_memory().available]
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        bounds.append(limit - psutil.Process().memory_info().vms)
    return max(0, min(bounds))


def _requested_bytes(error: BaseException) -> int:
    request = _REQUEST.search(str(error))
    return 0 if request is None else int(float(request[1]) * _UNITS[request[2]])
