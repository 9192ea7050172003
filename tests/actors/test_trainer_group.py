"""The learner on real Ray and real DeepSpeed, against a single process without either."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import torch
from tests.actors.learner_cases import make_batch, make_spec, train_alone
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.trainer import TrainerGroup, TrainerGroupError
from trainers.learner import LearnerSpec


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with contextlib.chdir(Path(__file__).parents[2]):
        ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@contextlib.asynccontextmanager
async def running(spec: LearnerSpec):
    group = await TrainerGroup.start(spec)
    try:
        yield group
    finally:
        group.close()


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return {name: value.detach() for name, value in model.named_parameters()}


def largest_difference(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    assert left.keys() == right.keys()
    return max(float((left[name] - right[name]).abs().max()) for name in left)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_ranks_train_like_one_process(tmp_path: Path, stage: int) -> None:
    spec = make_spec(tmp_path, zero_stage=stage, num_ranks=2)
    batches = [make_batch(seed, num_ranks=2) for seed in range(3)]

    async def train() -> list[float]:
        async with running(spec) as group:
            norms = [(await group.update(batch))["optimizer/grad_norm"] for batch in batches]
            await group.export(tmp_path / "export")
        return norms

    norms = asyncio.run(train())
    start, _ = train_alone(spec, [])
    expected, expected_norms = train_alone(spec, batches)
    assert norms == pytest.approx(expected_norms, rel=1e-6)
    trained = weights_of(tmp_path / "export")
    assert largest_difference(trained, expected) < 1e-6 * largest_difference(start, expected)
