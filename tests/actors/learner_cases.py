"""A small learner's spec and batches, and what a single process without an engine makes of them."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from actors import weights
from actors.trainer import TrainerGroup
from algorithms.table import resolve
from configs.schema.algorithm import AlgorithmConfig
from configs.schema.model import ModelConfig, NewModelConfig, TokenizerConfig
from configs.schema.training import OptimizerConfig, TrainerConfig
from experience.packing import plan_mini_batches
from experience.records import Batch, Item, TokenBlock
from experience.tokenizer import build_tokenizer
from trainers.assembly import build_model
from trainers.learner import LearnerSpec
from trainers.objective import Objective
from trainers.policy import PolicyObjective
from trainers.roles import Learner
from trainers.schedule import learning_rate

# Wide enough that ZeRO-3 really partitions its matrices.
SMALL = NewModelConfig(hidden_size=128, intermediate_size=256, num_layers=2, num_heads=2, num_kv_heads=1)
# With so large an epsilon Adam moves by the gradient itself, and does not blow up what rounding leaves of a zero.
OPTIMIZER = OptimizerConfig(learning_rate=0.5, max_grad_norm=0.5, epsilon=1.0, warmup_steps=2, schedule="cosine")
VOCAB_SIZE = 100


def policy_objective(**columns: object) -> PolicyObjective:
    config = AlgorithmConfig.model_validate({"name": "grpo", "kl_coef": 0, "aggregation": "token_mean", **columns})
    return PolicyObjective(algorithm=resolve(config), temperature=0.8, max_response_tokens=16)


def make_spec(
    folder: Path, objective: Objective | None = None, *, dtype: str = "float32", **trainer: object
) -> LearnerSpec:
    tokenizer = folder / "tokenizer"
    if not tokenizer.exists():
        build_tokenizer(TokenizerConfig(), ()).save_pretrained(tokenizer)
    return LearnerSpec(
        model=ModelConfig.model_validate({"new": SMALL, "dtype": dtype}),
        tokenizer_path=str(tokenizer),
        seed=3,
        optimizer=OPTIMIZER,
        trainer=TrainerConfig.model_validate({"collective_timeout_seconds": 30, **trainer}),
        objective=objective or policy_objective(),
        total_updates=8,
        config_digest="digest",
    )


def make_batch(seed: int, *, num_ranks: int, num_mini_batches: int = 1, num_equal: int = 0) -> Batch:
    """Two blocks with two groups of three random sequences each, of which some tokens count.

    The first `num_equal` groups have no advantage, and no gradient comes of them.
    """
    random = np.random.default_rng(seed)
    blocks, groups = [], []
    for number in range(2):
        lengths = random.integers(6, 24, size=6)
        prompts = [int(random.integers(1, length - 2)) for length in lengths]
        masks = [np.arange(length) >= prompt for length, prompt in zip(lengths, prompts, strict=True)]
        mask = np.concatenate(masks)
        blocks.append(
            TokenBlock(
                offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
                tokens=random.integers(0, VOCAB_SIZE, size=len(mask)).astype(np.int32),
                response_mask=mask,
                rollout_logprobs=np.where(mask, -3.0, 0.0).astype(np.float32),
                versions=np.where(mask, 0, -1).astype(np.int32),
            )
        )
        items = [
            Item(
                block=number,
                row=row,
                num_tokens=int(lengths[row]),
                num_loss_tokens=int(masks[row].sum()),
                advantage=(worth := float(random.normal())),
                reward=worth,
            )
            for row in range(6)
        ]
        groups += [items[:3], items[3:]]
    for number, group in enumerate(groups[:num_equal]):
        groups[number] = [replace(item, advantage=0.0) for item in group]
    plan = plan_mini_batches(
        groups,
        num_mini_batches=num_mini_batches,
        num_ranks=num_ranks,
        tokens_per_micro_batch=48,
        is_still=lambda item: item.advantage == 0,
    )
    return Batch(blocks=tuple(blocks), mini_batches=plan)


@contextlib.asynccontextmanager
async def running(spec: LearnerSpec) -> AsyncIterator[TrainerGroup]:
    """The spec's ranks, ended with the block."""
    group = await TrainerGroup.start(spec)
    try:
        yield group
    finally:
        group.close()


async def published(learner: Learner) -> dict[str, torch.Tensor]:
    """The weights that the learner publishes, by name."""
    version = await learner.publish(1)
    return {name: tensor.clone() for name, tensor in weights.tensors_of(version, await weights.fetch(version))}


def train_alone(spec: LearnerSpec, batches: list[Batch]) -> tuple[dict[str, torch.Tensor], list[float]]:
    """The policy gradient, one sequence at a time, with torch's AdamW. Final weights and gradient norms."""
    model = build_model(spec).causal_lm.float()
    model.set_attn_implementation("eager")
    config = spec.optimizer
    adam = torch.optim.AdamW(
        model.parameters(), betas=(config.beta1, config.beta2), eps=config.epsilon, weight_decay=config.weight_decay
    )
    norms, step = [], 0
    for batch in batches:
        for mini_batch in batch.mini_batches:
            adam.zero_grad()
            for micro in (micro for rank in mini_batch.ranks for micro in rank):
                for item in micro:
                    advantage_loss(model, batch.blocks[item.block], item).div(mini_batch.num_loss_tokens).backward()
            norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)))
            adam.param_groups[0]["lr"] = learning_rate(config, step, spec.total_updates)
            adam.step()
            step += 1
    return {name: value.detach() for name, value in model.named_parameters()}, norms


def advantage_loss(model: torch.nn.Module, block: TokenBlock, item: Item) -> torch.Tensor:
    """Minus the advantage-weighted log-prob of the response: the policy gradient at ratio 1."""
    return item.advantage * cross_entropy_loss(model, block, item, temperature=0.8)


def cross_entropy_loss(model: torch.nn.Module, block: TokenBlock, item: Item, temperature: float = 1.0) -> torch.Tensor:
    """Minus the log-prob of the response."""
    span = block.span(item.row)
    tokens = torch.from_numpy(block.tokens[span].astype(np.int64))
    logits = model(tokens[None]).logits[0, :-1] / temperature
    logprobs = logits.log_softmax(-1).gather(1, tokens[1:, None])[:, 0]
    counted = torch.from_numpy(block.response_mask[span].copy())[1:]
    return -logprobs[counted].sum()


@torch.no_grad()
def cross_entropy_alone(export: Path, batch: Batch, temperature: float = 1.0) -> float:
    """Mean over all counted tokens of the batch, one sequence at a time."""
    model = AutoModelForCausalLM.from_pretrained(export, dtype=torch.float32)
    total, count = 0.0, 0
    for block in batch.blocks:
        for row in range(len(block)):
            tokens = torch.from_numpy(block.tokens[block.span(row)].astype(np.int64))
            logprobs = (model(tokens[None]).logits[0, :-1] / temperature).log_softmax(-1).gather(1, tokens[1:, None])
            counted = logprobs[:, 0][torch.from_numpy(block.response_mask[block.span(row)].copy())[1:]]
            total, count = total - float(counted.sum()), count + len(counted)
    return total / count
