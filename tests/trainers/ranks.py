"""Work on several ranks of one process group, without Ray: what each hands back, by rank."""

import multiprocessing
import os
import pickle
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from configs.schema.training import TrainerConfig

Work = Callable[[], Any]


def run_on_ranks(size: int, work: Work, folder: Path, *, seconds: float = 300) -> list[Any]:
    """`work()` in `size` processes that share a process group; a function at the top of a module."""
    # One process imports, the ranks are its forks.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trainers.assembly"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [context.Process(target=_run, args=(work, rank, size, port, folder)) for rank in range(size)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(seconds)
        if process.is_alive():
            process.kill()
    assert [process.exitcode for process in ranks] == [0] * size
    return [pickle.loads((folder / f"rank_{rank}").read_bytes()) for rank in range(size)]


def _run(work: Work, rank: int, size: int, port: int, folder: Path) -> None:
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(size),
        LOCAL_RANK="0",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        GLOO_SOCKET_IFNAME="lo",
        DS_ACCELERATOR="cpu",
    )
    from trainers.zero.group import join_process_group

    join_process_group(TrainerConfig(collective_timeout_seconds=120))
    (folder / f"rank_{rank}").write_bytes(pickle.dumps(work()))
