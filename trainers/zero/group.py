"""The ranks of one model as a process group whose waits are bounded."""

import datetime
import os

import deepspeed
import torch
from torch import distributed as dist
from torch.distributed import distributed_c10d

from configs.schema.training import TrainerConfig
from metrics import activity


def join_process_group(config: TrainerConfig, listener: int | None = None) -> None:
    """Meet the other ranks named by RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in the environment.

    `listener`: for rank 0, the descriptor of a socket that is bound to MASTER_PORT, which nobody can take meanwhile.
    """
    activity.note("meeting the other ranks")
    torch.set_num_threads(config.threads_per_rank)
    if not torch.cuda.is_available():
        # DeepSpeed would compile a shared-memory collective with g++ here; gloo does the work without it.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    timeout = datetime.timedelta(seconds=config.collective_timeout_seconds)
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = dist.TCPStore(  # type: ignore[reportPrivateImportUsage]
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        size,
        is_master=rank == 0,
        timeout=timeout,
        master_listen_fd=listener,
    )
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    deepspeed.init_distributed(dist_backend=backend, timeout=timeout, verbose=False)


def bound_waits(seconds: float) -> None:
    """Give every process group the timeout: those that DeepSpeed makes would else wait for half an hour."""
    for group in list(distributed_c10d._world.pg_map):
        distributed_c10d._set_pg_timeout(datetime.timedelta(seconds=seconds), group)


def this_device() -> torch.device:
    """Where this rank computes."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
