"""One Ray cluster for all tests of this room: starting it costs more than most of them."""

from collections.abc import Iterator

import pytest

from cluster.session import ray_session
from configs.schema import ClusterConfig


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    with ray_session(ClusterConfig(), num_cpus=4):
        yield
