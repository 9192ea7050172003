"""PPO's ranks on real Ray and DeepSpeed - critic, token rewards, reference - against one slow process."""

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from configs.schema.training import CriticConfig, OptimizerConfig
from experience.packing import plan_mini_batches
from experience.records import Batch, Item
from tests.actors.learner_cases import OPTIMIZER, make_batch, make_spec, policy_objective, published, running
from trainers.assembly import build_model
from trainers.learner import LearnerSpec
from trainers.saving import save_checkpoint, state_snapshot
from trainers.schedule import learning_rate

PPO = {
    "name": "ppo",
    "kl_coef": 0.1,
    "value_clip": 0.2,
    "gae_lambda": 0.9,
    "gamma": 0.97,
}
CRITIC = CriticConfig(optimizer=OptimizerConfig(learning_rate=0.3, epsilon=1.0, max_grad_norm=100.0), zero_stage=1)


pytestmark = pytest.mark.usefixtures("cluster")


def ppo_spec(folder: Path, *, stage: int = 1, **columns: object) -> LearnerSpec:
    spec = make_spec(folder, policy_objective(**{**PPO, **columns}), zero_stage=stage, num_ranks=2)
    return replace(spec, critic=CRITIC.model_copy(update={"zero_stage": stage}))


def rewarded_batch(seed: int, num_mini_batches: int = 1) -> Batch:
    return make_batch(seed, num_ranks=2, num_mini_batches=num_mini_batches)


@dataclass
class Alone:
    """PPO in one process, a sequence at a time, with loops where the ranks have tensor operations."""

    spec: LearnerSpec

    def __post_init__(self) -> None:
        self.policy, self.reference, body = (build_model(self.spec).causal_lm for _ in range(3))
        for model in (self.policy, self.reference, body):
            model.set_attn_implementation("eager")
        self.body = body.base_model
        self.head = torch.nn.Parameter(torch.zeros(1, body.config.hidden_size))
        self.policy_adam = adam([*self.policy.parameters()], OPTIMIZER)
        self.critic_adam = adam([*self.body.parameters(), self.head], CRITIC.optimizer)
        self.steps = 0

    def logprobs(self, model: Any, tokens: Tensor) -> Tensor:
        """Of each token but the first, [T - 1]."""
        logits = model(tokens[None]).logits[0, :-1] / 0.8
        return logits.log_softmax(-1).gather(1, tokens[1:, None])[:, 0]

    def values(self, tokens: Tensor) -> Tensor:
        """Before each token but the first, [T - 1]."""
        return self.body(tokens[None]).last_hidden_state[0, :-1] @ self.head[0]

    def update(self, batch: Batch) -> dict[str, float]:
        """One update on a batch of one mini-batch; returns what the ranks report too."""
        algorithm = self.spec.objective.algorithm  # type: ignore[union-attr]
        items = [item for rank in batch.mini_batches[0].ranks for micro in rank for item in micro]
        sequences = [tokens_and_mask(batch, item) for item in items]
        with torch.no_grad():
            old = [self.logprobs(self.policy, tokens)[mask] for tokens, mask in sequences]
            reference = [self.logprobs(self.reference, tokens)[mask] for tokens, mask in sequences]
            values = [self.values(tokens)[mask] for tokens, mask in sequences]
        advantages, returns = [], []
        for item, o, r, v in zip(items, old, reference, values, strict=True):
            reward = -algorithm.kl_coef * (o - r)
            reward[-1] += item.reward
            advantages.append(slow_gae(reward, v, algorithm.gamma, algorithm.gae_lambda))
            returns.append(advantages[-1] + v)
        everything = torch.cat(advantages)
        mean, deviation = everything.mean(), everything.var(correction=0).sqrt()
        white = [(advantage - mean) / deviation for advantage in advantages]
        count = len(everything)
        policy_loss = value_loss = torch.zeros(())
        for (tokens, mask), o, advantage, target, v in zip(sequences, old, white, returns, values, strict=True):
            ratio = (self.logprobs(self.policy, tokens)[mask] - o).exp()
            policy_loss = policy_loss - torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).sum()
            value = self.values(tokens)[mask]
            clipped = v + (value - v).clamp(-0.2, 0.2)
            value_loss = value_loss + torch.maximum((value - target) ** 2, (clipped - target) ** 2).sum() / 2
        norms = [
            step(optimizer, loss / count, config, self.steps, self.spec.total_updates)
            for optimizer, loss, config in (
                (self.policy_adam, policy_loss, OPTIMIZER),
                (self.critic_adam, value_loss, CRITIC.optimizer),
            )
        ]
        self.steps += 1
        variance = torch.cat(returns).var(correction=0)
        residual = (torch.cat(returns) - torch.cat(values)).var(correction=0)
        return {
            "optimizer/grad_norm": norms[0],
            "critic/grad_norm": norms[1],
            "value/loss": float(value_loss.detach() / count),
            "value/return_mean": float(torch.cat(returns).mean()),
            "value/explained_variance": float(1 - residual / variance),
        }


def slow_gae(rewards: Tensor, values: Tensor, gamma: float, decay: float) -> Tensor:
    advantages, following, value_after = torch.zeros_like(rewards), 0.0, 0.0
    for t in reversed(range(len(rewards))):
        error = float(rewards[t]) + gamma * value_after - float(values[t])
        following = error + gamma * decay * following
        advantages[t], value_after = following, float(values[t])
    return advantages


def tokens_and_mask(batch: Batch, item: Item) -> tuple[Tensor, Tensor]:
    block = batch.blocks[item.block]
    span = block.span(item.row)
    return torch.from_numpy(block.tokens[span].astype("int64")), torch.from_numpy(block.response_mask[span].copy())[1:]


def adam(parameters: list[Any], config: OptimizerConfig) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        parameters, betas=(config.beta1, config.beta2), eps=config.epsilon, weight_decay=config.weight_decay
    )


def step(optimizer: torch.optim.AdamW, loss: Tensor, config: OptimizerConfig, number: int, total: int) -> float:
    optimizer.zero_grad()
    loss.backward()
    (group,) = optimizer.param_groups
    norm = float(torch.nn.utils.clip_grad_norm_(group["params"], config.max_grad_norm))
    group["lr"] = learning_rate(config, number, total)
    optimizer.step()
    return norm


@pytest.mark.parametrize("stage", [1, 3])
def test_two_ranks_do_ppo_like_one_slow_process(tmp_path: Path, stage: int) -> None:
    spec = ppo_spec(tmp_path, stage=stage)
    batches = [rewarded_batch(seed) for seed in range(3)]

    async def train() -> tuple[list[Any], dict[str, Tensor]]:
        async with running(spec) as group:
            return [await group.update(batch) for batch in batches], await published(group)

    metrics, trained = asyncio.run(train())
    alone = Alone(spec)
    for found, batch in zip(metrics, batches, strict=True):
        for name, value in alone.update(batch).items():
            assert found[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    expected = {name: value.detach() for name, value in alone.policy.named_parameters()}
    assert max(float((trained[name] - value).abs().max()) for name, value in expected.items()) < 1e-6


def test_warming_up_moves_the_critic_and_not_the_policy(tmp_path: Path) -> None:
    spec = ppo_spec(tmp_path)

    async def train() -> tuple[Any, ...]:
        async with running(spec) as group:
            before = await published(group)
            first = await group.update(replace(rewarded_batch(1), trains_policy=False))
            second = await group.update(replace(rewarded_batch(1), trains_policy=False))
            return before, first, second, await published(group)

    before, first, second, after = asyncio.run(train())
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert second["value/loss"] < first["value/loss"]
    assert "optimizer/grad_norm" not in first and first["critic/grad_norm"] > 0


def test_a_resumed_critic_and_a_moved_reference_go_on_bit_for_bit(tmp_path: Path) -> None:
    spec = ppo_spec(tmp_path, stage=3, reference_refresh_steps=1, kl_estimator="k2")
    batches = [rewarded_batch(seed, num_mini_batches=2) for seed in range(3)]

    async def whole() -> list[Any]:
        async with running(spec) as group:
            await group.update(batches[0])
            await group.refresh_reference()
            await save_checkpoint(group, tmp_path / "checkpoints" / "step_000001", state_snapshot({}))
            return [await group.update(batch) for batch in batches[1:]]

    async def resumed() -> list[Any]:
        async with running(spec) as group:
            await group.load(tmp_path / "checkpoints" / "step_000001")
            return [await group.update(batch) for batch in batches[1:]]

    expected, found = asyncio.run(whole()), asyncio.run(resumed())
    assert [untimed(line) for line in found] == [untimed(line) for line in expected]


def untimed(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith(("throughput", "memory", "time"))}


def test_a_refreshed_reference_is_the_policy(tmp_path: Path) -> None:
    objective = policy_objective(kl_coef=0.1, reference_refresh_steps=2)
    spec = make_spec(tmp_path, objective, zero_stage=3, num_ranks=2)

    async def train() -> list[Any]:
        async with running(spec) as group:
            start = await group.update(rewarded_batch(1))
            apart = await group.update(rewarded_batch(2))
            await group.refresh_reference()
            return [start, apart, await group.update(rewarded_batch(3))]

    start, apart, refreshed = asyncio.run(train())
    assert start["policy/kl_ref"] == pytest.approx(0, abs=1e-6) == refreshed["policy/kl_ref"]
    assert apart["policy/kl_ref"] > 1e-4


def test_mixed_in_text_adds_its_gradient_to_the_update(tmp_path: Path) -> None:
    """The whole gradient norm equals that of the sum of both losses in one slow process."""
    spec = make_spec(tmp_path, policy_objective(), zero_stage=2, num_ranks=2)
    batch, text = rewarded_batch(1), rewarded_batch(2)
    groups = [
        [replace(item, block=item.block + len(batch.blocks))]
        for rank in text.mini_batches[0].ranks
        for micro in rank
        for item in micro
    ]
    mixed = plan_mini_batches(groups, num_mini_batches=1, num_ranks=2, tokens_per_micro_batch=48)
    both = replace(batch, blocks=(*batch.blocks, *text.blocks), mixed=mixed, mixed_coef=0.5)

    async def train() -> Any:
        async with running(spec) as group:
            return await group.update(both)

    metrics = asyncio.run(train())
    alone = Alone(spec)
    loss, cross_entropy = torch.zeros(()), torch.zeros(())
    for item in (item for rank in batch.mini_batches[0].ranks for micro in rank for item in micro):
        tokens, mask = tokens_and_mask(batch, item)
        loss = loss - item.advantage * alone.logprobs(alone.policy, tokens)[mask].sum()
    for item in (item for (item,) in groups):
        tokens, mask = tokens_and_mask(both, item)
        logits = alone.policy(tokens[None]).logits[0, :-1]
        cross_entropy = cross_entropy - logits.log_softmax(-1).gather(1, tokens[1:, None])[:, 0][mask].sum()
    mean = cross_entropy / mixed[0].num_loss_tokens
    (loss / batch.mini_batches[0].num_loss_tokens + 0.5 * mean).backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in alone.policy.parameters() if p.grad is not None])
    assert metrics["optimizer/grad_norm"] == pytest.approx(float(norm), rel=1e-5)
    assert metrics["mixed/loss"] == pytest.approx(float(mean), rel=1e-5)
