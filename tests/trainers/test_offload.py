"""What leaves the device and comes back, and what can't."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist

from configs.schema import CriticConfig, OptimizerConfig, TrainerConfig
from tests.actors.learner_cases import OPTIMIZER, make_batch, make_spec, policy_objective
from tests.trainers.ranks import run_on_ranks
from trainers.assembly import assemble
from trainers.offload import Offloadable
from trainers.policy_trainer import PolicyTrainer
from trainers.zero.engine import ZeroEngine

CELLS = [(0, "float32"), (0, "bfloat16"), (1, "float32"), (2, "bfloat16"), (3, "float32")]  # ZeRO stage, precision
PASSING = ("throughput", "memory", "time")


@pytest.mark.parametrize("key", ["offload_optimizer", "offload_parameters"])
def test_offloading_without_a_gpu_is_refused(key: str) -> None:
    config = TrainerConfig.model_validate({key: True, "zero_stage": 3})
    with pytest.raises(ValueError, match=rf"trainer\.{key}=true: without a GPU .* set it to false"):
        ZeroEngine(nn.Linear(1, 1), OptimizerConfig(), config, dtype="float32", total_steps=1)


def test_views_of_what_moves_find_it_again_and_its_memory_is_given_back_meanwhile() -> None:
    whole = torch.arange(12.0)
    view, other = whole[3:5], torch.ones(2)
    movable = Offloadable(lambda: [whole, view, other], torch.device("cpu"))
    for _ in range(2):
        movable.offload()
        movable.offload()
        assert movable.is_offloaded
        assert (
            whole.untyped_storage().nbytes() == view.untyped_storage().nbytes() == other.untyped_storage().nbytes() == 0
        )
        movable.reload()
        movable.reload()
        assert not movable.is_offloaded
        assert view.tolist() == [3.0, 4.0] and other.tolist() == [1.0, 1.0]
        assert view.data_ptr() == whole.data_ptr() + 3 * 4
    elsewhere = Offloadable(lambda: [whole], torch.device("cuda"))
    elsewhere.offload()  # as with trainer.offload_optimizer: it is on the host already
    assert whole.untyped_storage().nbytes() == 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What was measured and learned, and the bytes that were free on the device in between."""

    metrics: list[Mapping[str, float]]
    weights: Mapping[str, Tensor]
    freed: int = 0


def train(folder: Path, stage: int, dtype: str, *, takes_turns: bool) -> Course:
    """This rank's part of two updates by PPO with a critic and a reference, which moves once."""
    objective = policy_objective(name="ppo", kl_coef=0.1, reference_refresh_steps=1)
    spec = make_spec(folder, dtype=dtype, num_ranks=2, zero_stage=stage)
    critic = CriticConfig.model_validate({"optimizer": OPTIMIZER, "zero_stage": stage})
    trainer = assemble(replace(spec, objective=objective, critic=critic))
    assert isinstance(trainer, PolicyTrainer)
    metrics, freed = [], 0
    for seed in range(2):
        if takes_turns:
            freed = turn_away(trainer)
            trainer.reload()
        batch = make_batch(seed, num_ranks=2)
        measured = trainer.update(batch.of_rank(dist.get_rank()), batch.blocks)
        metrics.append({name: value for name, value in measured.items() if not name.startswith(PASSING)})
        trainer.refresh_reference()
    return Course(metrics=metrics, weights=weights(trainer), freed=freed)


def turn_away(trainer: PolicyTrainer) -> int:
    """Offload; the weights can be published meanwhile, and nothing else is done by mistake. The bytes of device that
    are free."""
    before = weights(trainer)
    storages = {s.data_ptr(): s for s in (t.untyped_storage() for t in held(trainer)) if s.nbytes()}
    sizes = sum(storage.nbytes() for storage in storages.values())
    trainer.offload()
    assert all(storage.nbytes() == 0 for storage in storages.values())
    assert all(torch.equal(before[name], value) for name, value in weights(trainer).items())
    for engine in trainer.engines.values():
        with pytest.raises(AssertionError, match="whose optimiser is offloaded"):
            engine.save(Path("nowhere"))
    return sizes


def held(trainer: PolicyTrainer) -> list[Tensor]:
    """What DeepSpeed's optimisers hold, and the reference."""
    found: list[Tensor] = []
    for engine in trainer.engines.values():
        optimizer: Any = engine._engine.optimizer
        masters = "fp32_partitioned_groups_flat" if engine.stage == 3 else "single_partition_of_fp32_groups"
        found += getattr(optimizer, masters, [])
        states = engine._engine.basic_optimizer.state.values()
        found += [value for state in states for value in state.values() if torch.is_tensor(value)]
    reference: Any = trainer._reference
    return found + [getattr(parameter, "ds_tensor", parameter) for parameter in reference._module.parameters()]


def weights(trainer: PolicyTrainer) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": tensor.clone()
        for name, engine in trainer.engines.items()
        for bucket in engine.buckets(1 << 20)
        for key, tensor in bucket
    }


def train_cells(folder: Path) -> dict[tuple[int, str], tuple[Course, Course]]:
    return {
        (stage, dtype): (
            train(folder, stage, dtype, takes_turns=False),
            train(folder, stage, dtype, takes_turns=True),
        )
        for stage, dtype in CELLS
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> list[dict[tuple[int, str], tuple[Course, Course]]]:
    """By rank."""
    folder = tmp_path_factory.mktemp("offload")
    make_spec(folder)  # makes the tokenizer
    return run_on_ranks(2, partial(train_cells, folder), folder)


@pytest.mark.parametrize("cell", CELLS)
def test_training_goes_on_bit_for_bit_after_the_optimiser_was_away(trained: Any, cell: tuple[int, str]) -> None:
    for rank in trained:
        stayed, went = rank[cell]
        assert went.metrics == stayed.metrics
        assert went.weights.keys() == stayed.weights.keys()
        assert all(torch.equal(went.weights[name], value) for name, value in stayed.weights.items())
        parameters = sum(value.numel() for name, value in stayed.weights.items() if name.startswith("policy/"))
        stage, dtype = cell
        has_masters = stage > 0 or dtype == "bfloat16"
        least = (8 + 4 * has_masters) * parameters // (2 if stage else 1)  # of the policy's optimiser alone
        assert went.freed > least
