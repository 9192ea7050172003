"""Every ZeRO stage and precision, on packed sequences, mixtures of experts and shared tokens, against plain PyTorch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch import distributed as dist

from configs.schema.model import ModelConfig
from configs.schema.training import CriticConfig
from experience.records import Batch, Item, TokenBlock
from tests.actors.learner_cases import (
    OPTIMIZER,
    SMALL,
    advantage_loss,
    cross_entropy_loss,
    make_batch,
    make_spec,
    policy_objective,
)
from tests.trainers.ranks import run_on_ranks
from trainers.assembly import assemble, build_model
from trainers.flops import pass_flops
from trainers.learner import LearnerSpec
from trainers.objective import Objective
from trainers.parallel import Layout
from trainers.passes import Packs, parted
from trainers.policy import PolicyObjective
from trainers.schedule import learning_rate
from trainers.supervised import SupervisedObjective

NUM_STEPS = 3
MIXTURE = SMALL.model_copy(update={"architecture": "qwen3_moe", "num_experts": 4})
SEED = 11
PEAK_TFLOPS = 0.5  # told to the ranks that share tokens; the others know of none
IMITATION = SupervisedObjective()


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A way to train. `size`: ranks that share each micro-batch's tokens; `num_equal`: groups without advantage."""

    num_equal: int = 0
    objective: Objective | PolicyObjective = IMITATION
    is_mixture: bool = False
    size: int = 1

    def spec(self, folder: Path, stage: int = 1, dtype: str = "float32") -> LearnerSpec:
        """Of a learner whose batches have two parts."""
        trainer = {"num_ranks": 2 * self.size, "sequence_parallel_size": self.size, "zero_stage": stage}
        peak = {"peak_tflops": PEAK_TFLOPS} if self.size > 1 else {}
        spec = make_spec(folder, self.objective, dtype=dtype, **trainer, **peak)
        new = MIXTURE if self.is_mixture else SMALL
        return replace(spec, model=ModelConfig.model_validate({"new": new, "dtype": dtype}))

    def batch(self, num_ranks: int) -> Batch:
        """The same sequences, dealt to so many ranks."""
        return make_batch(SEED, num_ranks=num_ranks, num_equal=self.num_equal)


KINDS: Mapping[str, Kind] = {
    "packed": Kind(),
    "mixture": Kind(is_mixture=True),
    "equal groups": Kind(objective=policy_objective(), num_equal=2),
    "mixture by grpo": Kind(is_mixture=True, objective=policy_objective()),
    "shared": Kind(size=2),
    "shared mixture": Kind(size=2, is_mixture=True),
}
Cell = tuple[str, int, str]  # kind, ZeRO stage, precision
CELLS: list[Cell] = list(product(KINDS, (1, 2, 3), ("float32", "bfloat16")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What each step measured, and the weights after the last."""

    metrics: list[Mapping[str, float]]
    weights: Mapping[str, Tensor]


def train(spec: LearnerSpec, batch: Batch) -> Trained:
    """This rank's part in a few updates on the same batch."""
    trainer = assemble(spec)
    part = batch.of_rank(dist.get_rank() // spec.trainer.sequence_parallel_size)
    metrics = [trainer.update(part, batch.blocks) for _ in range(NUM_STEPS)]
    weights = {
        name.removeprefix("causal_lm."): tensor.float().clone()
        for bucket in trainer.engine.buckets(1 << 20)
        for name, tensor in bucket
    }
    return Trained(metrics=metrics, weights=weights)


def train_cells(cells: list[Cell], folder: Path) -> dict[Cell, Trained]:
    return {
        (kind, stage, dtype): train(KINDS[kind].spec(folder, stage, dtype), KINDS[kind].batch(2))
        for kind, stage, dtype in cells
    }


def work_of(kind: Kind, folder: Path) -> float:
    """FLOPs of an update on all ranks together."""
    batch, layout = kind.batch(2), Layout(size=kind.size)
    module = build_model(kind.spec(folder))
    packs = Packs(batch.blocks, torch.device("cpu"), layout)
    parts = [parted(batch.of_rank(rank).mini_batches[0]) for rank in range(2)]
    assert bool(kind.num_equal) == any(bool(still) for _, still in parts)
    return sum(3 * pass_flops(module, learned, packs) + pass_flops(module, still, packs) for learned, still in parts)


Loss = Callable[[torch.nn.Module, TokenBlock, Item], Tensor]


@cache
def train_alone(folder: Path, kind: str, dtype: str) -> tuple[list[float], list[float], dict[str, Tensor]]:
    """One sequence at a time, in float32, with torch's AdamW: losses, gradient norms and final weights."""
    spec = KINDS[kind].spec(folder, dtype=dtype)
    item_loss = advantage_loss if isinstance(spec.objective, PolicyObjective) else cross_entropy_loss
    model = build_model(spec).causal_lm.float()
    model.set_attn_implementation("eager")
    adam = torch.optim.AdamW(model.parameters(), betas=(OPTIMIZER.beta1, OPTIMIZER.beta2), eps=OPTIMIZER.epsilon)
    adam.param_groups[0]["weight_decay"] = OPTIMIZER.weight_decay
    batch = KINDS[kind].batch(1)
    (mini_batch,) = batch.mini_batches
    items = [item for micro in mini_batch.ranks[0] for item in micro]
    losses, norms = [], []
    for step in range(NUM_STEPS):
        adam.zero_grad()
        loss = sum(item_loss(model, batch.blocks[item.block], item) for item in items) / mini_batch.num_loss_tokens
        assert isinstance(loss, Tensor)
        loss.backward()
        losses.append(float(loss.detach()))
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER.max_grad_norm)))
        adam.param_groups[0]["lr"] = learning_rate(OPTIMIZER, step, spec.total_updates)
        adam.step()
    return losses, norms, {name: value.detach() for name, value in model.named_parameters()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("matrix")
    KINDS["packed"].spec(folder)  # makes the tokenizer
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path) -> dict[Cell, Trained]:
    """All cells, on one group of processes for each number of ranks."""
    found: dict[Cell, Trained] = {}
    for size in (1, 2):
        cells = [cell for cell in CELLS if KINDS[cell[0]].size == size]
        ranks = run_on_ranks(2 * size, partial(train_cells, cells, folder), folder)
        found |= ranks[0]
    return found


@pytest.mark.parametrize(("kind", "stage", "dtype"), CELLS)
def test_ranks_train_like_one_process(
    trained: dict[Cell, Trained], folder: Path, kind: str, stage: int, dtype: str
) -> None:
    found = trained[kind, stage, dtype]
    losses, norms, weights = train_alone(folder, kind, dtype)
    # A mixture's router chooses other experts where bfloat16 rounds two of them to a tie.
    tolerance = 1e-5 if dtype == "float32" else 0.05 if KINDS[kind].is_mixture else 0.02
    assert [metrics["optimizer/grad_norm"] for metrics in found.metrics] == pytest.approx(norms, rel=tolerance)
    num_tokens = sum(len(block.tokens) for block in KINDS[kind].batch(1).blocks)
    work = work_of(KINDS[kind], folder)
    for metrics in found.metrics:
        seconds = metrics["throughput/tflops_per_rank"] * 2 * KINDS[kind].size * 1e12
        assert metrics["throughput/tokens_per_second"] / seconds == pytest.approx(num_tokens / work)
        share = metrics["throughput/tflops_per_rank"] / PEAK_TFLOPS if KINDS[kind].size > 1 else None
        assert metrics.get("throughput/mfu") == (share and pytest.approx(share))
    assert found.weights.keys() == weights.keys()
    moved = max(float((weights[name] - value).abs().max()) for name, value in found.weights.items())
    assert moved < (1e-6 if dtype == "float32" else 0.02)
    if not isinstance(KINDS[kind].objective, PolicyObjective):  # whose loss at ratio 1 is the same for any weights
        measured = [metrics["supervised/loss"] for metrics in found.metrics]
        assert measured == pytest.approx(losses, rel=tolerance)
        assert measured == sorted(measured, reverse=True)
        assert measured[-1] < measured[0] - 0.1


def train_with_a_critic(model: Path, folder: Path) -> dict[int, Trained]:
    """PPO with a critic and a reference, by the number of ranks that share tokens."""
    columns = {"name": "ppo", "kl_coef": 0.1, "kl_place": "reward", "whiten": True}
    objective = policy_objective(**columns)
    found = {}
    for size in (1, 2):
        spec = make_spec(folder, objective, zero_stage=2, num_ranks=4, sequence_parallel_size=size)
        critic = CriticConfig(optimizer=OPTIMIZER, zero_stage=1)
        spec = replace(spec, model=ModelConfig(path=str(model)), critic=critic)
        batch = replace(make_batch(SEED, num_ranks=4 // size, num_mini_batches=2), epochs=2)
        found[size] = train(spec, batch)
    return found


def test_sharing_tokens_changes_no_metric_of_ppo(folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    spec = KINDS["packed"].spec(folder)
    build_model(spec).causal_lm.save_pretrained(model)
    found = run_on_ranks(4, partial(train_with_a_critic, model, folder), tmp_path)[0]
    costs = {"throughput", "memory", "time"}
    for alone, shared in zip(found[1].metrics, found[2].metrics, strict=True):
        names = [name for name in alone if name.partition("/")[0] not in costs]
        assert "value/loss" in names and "policy/kl_ref" in names
        assert {n: shared[n] for n in names} == pytest.approx({n: alone[n] for n in names}, rel=1e-4, abs=1e-6)
