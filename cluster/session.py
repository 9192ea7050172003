"""Joining a Ray cluster, or starting a local one that ends with the run."""

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager
from pathlib import Path

import psutil
import ray
from ray.job_config import JobConfig
from ray.util import get_node_ip_address

from actors import telemetry
from actors.store import full_store_told
from cluster.head import head_watched
from cluster.import_path import ours_first
from cluster.ray_token import check_cluster, demand_token
from cluster.reaper import reaping
from cluster.signals import dispositions_kept, handlers_kept
from configs.schema import ClusterConfig

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parent.parent

_SECONDS_TO_GIVE_UP = 10.0

Session = Callable[[], AbstractContextManager[None]]


@contextlib.contextmanager
def ray_session(config: ClusterConfig, num_cpus: int) -> Iterator[None]:
    """Ray is connected inside. A session that runs already is used as it is, and left running.

    `num_cpus`: logical CPUs that the run's actors ask for; a local cluster has at least as many.
    """
    with session_begun(config, num_cpus) as session, session():
        yield


@contextlib.contextmanager
def session_begun(config: ClusterConfig, num_cpus: int) -> Iterator[Session]:
    """Inside, a local cluster starts while other things are done; what is given waits for it, see `ray_session`.

    Where it is not asked for, as something else was wrong, its processes are ended again.
    """
    if ray.is_initialized():
        yield full_store_told
        return
    for name, value in telemetry.OFF.items():
        os.environ.setdefault(name, value)
    if config.address is not None:
        yield lambda: _joined(config, str(config.address))
        return
    demand_token()
    start = _Start(config.num_cpus or max(num_cpus, os.cpu_count() or 1), dashboard=config.dashboard)
    try:
        yield start.finished
    finally:
        start.end()


class _Start:
    """A local cluster's start, on a thread of its own: most of it is waiting for processes.

    The thread stays until the cluster's end: the kernel ends Ray's processes with the thread that began them.
    """

    def __init__(self, num_cpus: int, *, dashboard: bool) -> None:
        self._num_cpus, self._dashboard = num_cpus, dashboard
        self._earlier = _children()
        self._result: Future[None] = Future()
        self._is_used = False
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ray start", daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def finished(self) -> Iterator[None]:
        """Ray is connected inside. No other process may be started before, which would be taken for Ray's."""
        self._is_used = True
        try:
            self._result.result()
        except BaseException:
            self._kill()
            raise
        with _watched():
            yield

    def end(self) -> None:
        """End what was started, where it was in vain."""
        if not self._is_used:
            if wait([self._result], timeout=_SECONDS_TO_GIVE_UP).not_done:
                self._kill()
            ray.shutdown()
        self._is_over.set()
        if self._result.done():
            self._thread.join()

    def _kill(self) -> None:
        for process in _children() - self._earlier:
            with contextlib.suppress(psutil.Error):
                process.kill()

    def _run(self) -> None:
        # Idle workers would cost memory, and time at the start.
        os.environ.setdefault("RAY_enable_worker_prestart", "0")
        os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
        try:
            with dispositions_kept():
                ray.init(
                    address="local",
                    num_cpus=self._num_cpus,
                    include_dashboard=self._dashboard,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    job_config=_OursAlone(_py_driver_sys_path=[str(ROOT)]),
                )
            logger.info("local Ray cluster at %s", get_node_ip_address())
            with reaping(_children() - self._earlier):
                self._result.set_result(None)
                self._is_over.wait()
        except BaseException as error:  # Ray gives up with SystemExit
            if self._result.done():
                raise
            self._result.set_exception(error)


class _OursAlone(JobConfig):
    """Workers find our modules, and none of the folder that the driver happens to be in: a user's `rewards.py` there
    would take the place of ours."""

    def _runtime_env_has_working_dir(self) -> bool:
        return True


@contextlib.contextmanager
def _joined(config: ClusterConfig, address: str) -> Iterator[None]:
    # Workers get the driver's current folder on their path: from here, no user's `rewards.py` can shadow ours.
    with contextlib.chdir(ROOT), handlers_kept():
        _join(config, address)
    with _watched():
        yield


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    """Ray is connected inside; without its head the process ends."""
    with head_watched(), full_store_told():
        try:
            yield
        finally:
            ray.shutdown()


def _children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


def _join(config: ClusterConfig, address: str) -> None:
    check_cluster(address, is_insecure=config.insecure)
    try:
        ray.init(
            address=address,
            runtime_env={"worker_process_setup_hook": ours_first()},
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
    except ConnectionError as error:
        raise ValueError(f"cluster.address={address}: its head answers, but it can't be joined ({error})") from None
