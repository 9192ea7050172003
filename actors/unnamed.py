"""Names taken off what the processes of an engine share, once all of them have it open.

Shared memory without a name goes with the last process that has mapped it, also when all are killed. vLLM itself
takes the names off at an orderly end alone, and some hundred MiB a lost engine would stay.
"""

import gc
import os
from pathlib import Path

from vllm.distributed.device_communicators.shm_broadcast import MessageQueue

_SHARED_MEMORY = Path("/dev/shm")
_IPC = "ipc://"


def unname_all() -> None:
    """Do it for all that this process of the engine has made. Every one of them must be ready for work.

    The queue of its answers is a variable of vLLM's main function, out of reach but for the collector of garbage.
    """
    for queue in [found for found in gc.get_objects() if type(found) is MessageQueue]:
        unname(queue)
    # What processes on a CPU reduce sums in; vLLM's name for it begins with the engine's.
    engine = os.environ.get("VLLM_DIST_IDENT", "")
    if engine.startswith("vllm_dist"):
        for path in _SHARED_MEMORY.glob(f"{engine}-*"):
            path.unlink(missing_ok=True)  # every process of the engine tries


def unname(queue: MessageQueue) -> None:
    """Do it for a queue, in the process that has made it."""
    ring = queue.buffer
    if ring is None or not ring.is_creator:
        return
    ring.shared_memory.unlink()
    ring.is_creator = False  # else vLLM would do it again, and fail
    for address in (queue.handle.local_subscribe_addr, queue.handle.local_notify_addr):
        if address is not None and address.startswith(_IPC):
            Path(address.removeprefix(_IPC)).unlink(missing_ok=True)
