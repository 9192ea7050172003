"""Where ranks meet: the port stays theirs from its choice to its use, whoever wants it meanwhile."""

import errno
import multiprocessing
import socket
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event

import pytest

from actors.rendezvous import ReservedAddress, set_rank_environment
from configs.schema.training import TrainerConfig

SECONDS = 60
NUM_RANKS = 2

Address = tuple[str, int]


def first_rank(told: Connection, is_wanted: Event, is_met: Event, is_over: Event) -> None:
    reserved = ReservedAddress()
    told.send(reserved.address)
    assert is_wanted.wait(SECONDS)
    meet(0, reserved.address, reserved)
    is_met.set()
    assert is_over.wait(SECONDS)  # its end would free the port


def meet(rank: int, address: Address, reserved: ReservedAddress) -> None:
    set_rank_environment(rank, NUM_RANKS, address, is_local=True)
    from trainers.zero.group import dist, join_process_group

    join_process_group(TrainerConfig(collective_timeout_seconds=20), reserved.hand_over(rank))
    dist.barrier()


def second_rank(address: Address) -> None:
    meet(1, address, ReservedAddress())


def take_if_free(host: str, port: int, is_wanted: Event, is_met: Event) -> None:
    """Try to listen there without a pause, as any process of the machine may. Exit code 1 when the port was free."""
    while not is_met.is_set():
        try:
            with socket.create_server((host, port)):
                is_wanted.set()
                is_met.wait(SECONDS)
                raise SystemExit(1)
        except OSError as error:
            assert error.errno == errno.EADDRINUSE
        is_wanted.set()


def test_ranks_meet_at_a_port_that_another_process_wants_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trainers.assembly"])
    here, there = context.Pipe()
    is_wanted, is_met, is_over = context.Event(), context.Event(), context.Event()
    first = context.Process(target=first_rank, args=(there, is_wanted, is_met, is_over))
    first.start()
    assert here.poll(SECONDS)
    address: Address = here.recv()
    thief = context.Process(target=take_if_free, args=(*address, is_wanted, is_met))
    second = context.Process(target=second_rank, args=(address,))
    for process in (thief, second):
        process.start()
    thief.join(SECONDS)
    is_over.set()
    ended = [first, second, thief]
    for process in ended:
        process.join(SECONDS)
        if process.is_alive():
            process.kill()
    assert [process.exitcode for process in ended] == [0, 0, 0]
