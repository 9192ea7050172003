"""How the processes of a group of ranks find each other."""

import os
import socket

import ray


class ReservedAddress:
    """This node's address with a port that nobody else is given.

    Between the choice of a port and its use a process imports torch, which takes seconds; a port that was only
    looked up would be another's by then. So it is never let go of: the ranks' store listens on this very socket.
    """

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.bind(("", 0))
        self.address: tuple[str, int] = (ray.util.get_node_ip_address(), self._socket.getsockname()[1])

    def hand_over(self, rank: int) -> int | None:
        """For rank 0 the bound socket's descriptor, which is the caller's from now on; the others give up theirs."""
        if rank == 0:
            return self._socket.detach()
        self._socket.close()
        return None


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
