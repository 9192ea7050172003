"""How the processes of a group of ranks find each other."""

import os
import socket

import ray


def free_address() -> tuple[str, int]:
    """This node's address, and a port that is free on it."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return ray.util.get_node_ip_address(), probe.getsockname()[1]


def set_rank_environment(rank: int, num_ranks: int, master: tuple[str, int], *, is_local: bool) -> None:
    """What torch.distributed reads when a group is joined; the address is known only when its processes run.

    `is_local`: all ranks are CPU processes of one machine, which need no network.
    """
    host, port = master
    if is_local:
        host = "127.0.0.1"
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(num_ranks),
        LOCAL_RANK="0",  # Ray shows each rank its own device only
        MASTER_ADDR=host,
        MASTER_PORT=str(port),
    )
