"""Joining a Ray cluster, or starting a local one that ends with the run."""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import ray
from ray.util import get_node_ip_address

from actors import telemetry
from actors.store import full_store_told
from cluster.head import head_watched
from cluster.import_path import ours_first
from cluster.ray_token import check_cluster, demand_token
from cluster.reaper import reaping
from cluster.signals import handlers_kept
from configs.schema import ClusterConfig

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parent.parent


@contextlib.contextmanager
def ray_session(config: ClusterConfig, num_cpus: int) -> Iterator[None]:
    """Ray is connected inside. A session that runs already is used as it is, and left running.

    `num_cpus`: logical CPUs that the run's actors ask for; a local cluster has at least as many.
    """
    if ray.is_initialized():
        with full_store_told():
            yield
        return
    for name, value in telemetry.OFF.items():
        os.environ.setdefault(name, value)
    # Workers get the driver's current folder on their path: from here, no user's `rewards.py` can shadow ours.
    earlier = _children()
    try:
        with contextlib.chdir(ROOT), handlers_kept():
            _join(config, config.address) if config.address else _start(config, num_cpus)
    except BaseException:
        for process in _children() - earlier:  # what a start that was interrupted leaves
            with contextlib.suppress(psutil.Error):
                process.kill()
        raise
    with reaping(_children() - earlier), head_watched(), full_store_told():
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


def _start(config: ClusterConfig, num_cpus: int) -> None:
    demand_token()
    for name in ("RAY_enable_worker_prestart", "RAY_prestart_worker_first_driver"):
        os.environ.setdefault(name, "0")  # idle workers would cost memory and start-up time
    ray.init(
        address="local",
        num_cpus=config.num_cpus or max(num_cpus, os.cpu_count() or 1),
        include_dashboard=config.dashboard,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    logger.info("local Ray cluster at %s", get_node_ip_address())
