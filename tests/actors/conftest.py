"""A Ray cluster for the tests of a module that asks for one."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Local and of this module's own. Its workers import the tests' modules from the folder it is started in."""
    with contextlib.chdir(Path(__file__).parents[2]):
        ray.init(address="local", num_cpus=6, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
