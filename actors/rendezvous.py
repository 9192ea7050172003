"""How the processes of a group of ranks find each other."""

import os
import socket

import psutil
import ray


class ReservedAddress:
    """This node's address with a port that nobody else is given.

    Between the choice of a port and its use a process imports torch, which takes seconds; a port that was only
    looked up would be another's by then. So it is never let go of: the ranks' store listens on this very socket.
    """

    def __init__(self) -> None:
        host = ray.util.get_node_ip_address()
        self._socket = socket.socket()
        self._socket.bind((host, 0))  # where the other ranks look for it, and nowhere else
        self.address: tuple[str, int] = (host, self._socket.getsockname()[1])

    def hand_over(self, rank: int) -> int | None:
        """For rank 0 the bound socket's descriptor, which is the caller's from now on; the others give up theirs."""
        if rank == 0:
            return self._socket.detach()
        self._socket.close()
        return None


def set_rank_environment(rank: int, num_ranks: int, master: tuple[str, int], *, is_local: bool) -> None:
    """What torch.distributed reads when a group is joined; the address is known only when its processes run.

    `is_local`: all ranks are CPU processes of one machine, whose collectives need no network.
    """
    host, port = master
    if is_local:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    else:
        _set_interface(ray.util.get_node_ip_address())
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(num_ranks),
        LOCAL_RANK="0",  # Ray shows each rank its own device only
        MASTER_ADDR=host,
        MASTER_PORT=str(port),
    )


def _set_interface(address: str) -> None:
    """Have the ranks listen where Ray does, unless the node's own environment names an interface.

    Gloo would look the host's name up, which on many machines means the loopback, where no other host answers.
    """
    if (interface := interface_of(address)) is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={interface}")  # this very name, and none that begins so


def interface_of(address: str) -> str | None:
    """The network interface of this machine that has the address; None where none has, as behind some NATs."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(own.address.partition("%")[0] == address for own in addresses):
            return name
    return None
