"""Adapters on real Ray and real DeepSpeed: what moves, what stays, what is published, saved and exported."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from configs.schema import LoraConfig
from configs.schema.rollout import LoraSync
from tests.actors.learner_cases import advantage_loss, make_batch, make_spec, policy_objective, published, running
from trainers.adapter_names import adapter_name
from trainers.assembly import build_model
from trainers.learner import LearnerSpec
from trainers.lora import adapted_layers, add_adapters
from trainers.saving import save_checkpoint, state_snapshot
from trainers.schedule import learning_rate
from trainers.supervised import SupervisedObjective

LORA = LoraConfig(rank=4, alpha=16)


pytestmark = pytest.mark.usefixtures("cluster")


def lora_spec(folder: Path, objective: Any = None, *, sync: LoraSync = "adapter", **options: Any) -> LearnerSpec:
    spec = make_spec(folder, objective, num_ranks=2, **options)
    return replace(spec, model=spec.model.model_copy(update={"lora": LORA}), lora_sync=sync)


def adapter_in(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def train_alone(spec: LearnerSpec, seeds: range) -> tuple[dict[str, Tensor], list[float]]:
    """A and B, and the gradient norms, after an update on the batch of each seed, one sequence at a time."""
    model = build_model(spec).causal_lm.float()
    model.set_attn_implementation("eager")
    add_adapters(model, LORA, seed=spec.seed)
    trained = [value for value in model.parameters() if value.requires_grad]
    config, norms = spec.optimizer, []
    adam = torch.optim.AdamW(
        trained, betas=(config.beta1, config.beta2), eps=config.epsilon, weight_decay=config.weight_decay
    )
    for step, seed in enumerate(seeds):
        batch = make_batch(seed, num_ranks=2)
        (mini_batch,) = batch.mini_batches
        adam.zero_grad()
        for item in (item for rank in mini_batch.ranks for micro in rank for item in micro):
            advantage_loss(model, batch.blocks[item.block], item).div(mini_batch.num_loss_tokens).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(trained, config.max_grad_norm)))
        adam.param_groups[0]["lr"] = learning_rate(config, step, spec.total_updates)
        adam.step()
    return {adapter_name(n): p.detach() for n, p in model.named_parameters() if p.requires_grad}, norms


def base_weights(spec: LearnerSpec) -> Mapping[str, Tensor]:
    return dict(build_model(spec).causal_lm.named_parameters())


CASES = [(0, "float32"), *((stage, dtype) for stage in (1, 2, 3) for dtype in ("float32", "bfloat16"))]


@pytest.mark.parametrize(("stage", "dtype"), CASES)
def test_two_ranks_train_adapters_like_one_process_and_leave_the_base(tmp_path: Path, stage: int, dtype: str) -> None:
    spec = lora_spec(tmp_path, zero_stage=stage, dtype=dtype)
    objective = policy_objective(kl_coef=1e-6, kl_estimator="k2")  # so little that only the reference is of interest
    spec = replace(spec, objective=objective, model=spec.model.model_copy(update={"gradient_checkpointing": True}))

    async def learn() -> tuple[list[Any], dict[str, Tensor]]:
        async with running(spec) as group:
            metrics = [await group.update(make_batch(seed, num_ranks=2)) for seed in range(3)]
            await group.export(tmp_path / "export")
            return metrics, await published(group)

    metrics, adapter = asyncio.run(learn())
    expected, norms = train_alone(spec, range(3))
    exact = dtype == "float32"
    assert [values["optimizer/grad_norm"] for values in metrics] == pytest.approx(norms, rel=1e-4 if exact else 0.05)
    assert adapter.keys() == expected.keys()
    for name, matrix in expected.items():
        torch.testing.assert_close(adapter[name].float(), matrix, rtol=0, atol=1e-6 if exact else 1e-2)
    assert any(matrix.any() for name, matrix in expected.items() if "lora_B" in name)
    divergences = [values["policy/kl_ref"] for values in metrics]
    assert divergences[0] == 0  # to the bit: the reference is the same weights
    assert divergences[1] > 0
    check_export(tmp_path / "export", spec, adapter)


def check_export(folder: Path, spec: LearnerSpec, adapter: Mapping[str, Tensor]) -> None:
    """The adapter alone gives the logits of the merged weights; what has no adapter is the base to the bit."""
    merged = AutoModelForCausalLM.from_pretrained(folder)
    base = base_weights(spec)
    adapted = {name.removeprefix("base_model.model.").rpartition(".lora_")[0] + ".weight" for name in adapter}
    for name, value in merged.named_parameters():
        assert torch.equal(value, base[name]) == (name not in adapted), name
    assert adapter_in(folder).keys() == adapter.keys()
    plain = AutoModelForCausalLM.from_pretrained(folder)
    plain.load_state_dict(dict(base), strict=False)
    twin = PeftModel.from_pretrained(plain, str(folder / "adapter"), autocast_adapter_dtype=False)
    ids = torch.arange(40, 60)[None]
    exact = spec.model.dtype == "float32"
    torch.testing.assert_close(twin(ids).logits, merged(ids).logits, rtol=0, atol=2e-5 if exact else 0.1)
    unmerged = twin.merge_and_unload().state_dict()
    for name, value in merged.named_parameters():
        torch.testing.assert_close(value, unmerged[name], rtol=0, atol=1e-6 if exact else 2e-2)


@pytest.mark.parametrize(("stage", "dtype"), [(1, "float32"), (3, "bfloat16")])
def test_a_resumed_learner_goes_on_bit_for_bit_from_a_small_checkpoint(tmp_path: Path, stage: int, dtype: str) -> None:
    spec = lora_spec(tmp_path, SupervisedObjective(), sync="merged", zero_stage=stage, dtype=dtype)
    lora = LORA.model_copy(update={"dropout": 0.2})
    spec = replace(spec, model=spec.model.model_copy(update={"lora": lora}))
    batches = [make_batch(seed, num_ranks=2, num_mini_batches=2) for seed in range(4)]
    folder = tmp_path / "checkpoints" / "step_000002"

    async def straight() -> tuple[list[Any], dict[str, Tensor]]:
        async with running(spec) as group:
            for batch in batches[:2]:
                await group.update(batch)
            await save_checkpoint(group, folder, state_snapshot({"cursor": 7}))
            return [await group.update(batch) for batch in batches[2:]], await published(group)

    async def resumed() -> tuple[list[Any], dict[str, Tensor]]:
        async with running(spec) as group:
            assert await group.load(folder) == {"cursor": 7}
            return [await group.update(batch) for batch in batches[2:]], await published(group)

    metrics, expected = asyncio.run(straight())
    again, found = asyncio.run(resumed())
    for name in ("supervised/loss", "optimizer/grad_norm", "optimizer/learning_rate"):
        assert [values[name] for values in again] == [values[name] for values in metrics]
    assert found.keys() == expected.keys() == base_weights(spec).keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    model = build_model(spec).causal_lm
    num_base = sum(value.numel() for value in model.parameters())
    add_adapters(model, LORA, seed=0)
    num_trained = sum(layer.lora_A.numel() + layer.lora_B.numel() for layer in adapted_layers(model).values())
    size = sum(path.stat().st_size for path in (folder / "policy").iterdir())
    assert size < (16 * num_trained + 200_000) < model.dtype.itemsize * num_base + 16 * num_trained


def test_held_out_loss_takes_no_dropout(tmp_path: Path) -> None:
    spec = lora_spec(tmp_path, SupervisedObjective(), zero_stage=1)
    spec = replace(spec, model=spec.model.model_copy(update={"lora": LORA.model_copy(update={"dropout": 0.5})}))
    batch = make_batch(3, num_ranks=2)

    async def learn() -> tuple[Any, Any, Any]:
        async with running(spec) as group:
            for _ in range(2):
                trained = await group.update(batch)
            return trained, await group.evaluate(batch), await group.evaluate(batch)

    trained, first, second = asyncio.run(learn())
    assert first == second
    assert trained["supervised/loss"] != first["eval/loss"]
