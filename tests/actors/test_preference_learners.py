"""Reward model and DPO on real Ray and DeepSpeed, against a single process with torch's AdamW."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from actors.trainer import TrainerGroup
from configs.schema.model import ModelConfig, TokenizerConfig
from experience.packing import plan_block
from experience.records import Batch, Ranking, TokenBlock
from experience.tokenizer import build_tokenizer
from rewards.contract import RewardInput
from tests.actors.learner_cases import SMALL, VOCAB_SIZE, make_spec
from trainers.learner import LearnerSpec
from trainers.model import SpecialTokens, new_model
from trainers.model_files import RewardNormalization, check_reward_model
from trainers.objective import Objective
from trainers.preferences import DpoObjective, RewardObjective
from trainers.reward_model import load_classifier
from trainers.schedule import learning_rate
from trainers.scoring_model import ScoringModel

NUM_UPDATES = 3


pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small policy in a folder, as an earlier stage leaves it."""
    folder = tmp_path_factory.mktemp("policy")
    tokenizer = build_tokenizer(TokenizerConfig(), ())
    tokens = SpecialTokens(bos=None, eos=int(str(tokenizer.eos_token_id)), pad=int(str(tokenizer.pad_token_id)))
    model = new_model(SMALL, vocab_size=len(tokenizer), seed=5, tokens=tokens, dtype="float32")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def spec_of(policy: Path, folder: Path, objective: Objective, zero_stage: int) -> LearnerSpec:
    spec = make_spec(folder, objective, zero_stage=zero_stage, num_ranks=2)
    return replace(spec, model=ModelConfig(path=str(policy)), tokenizer_path=str(policy))


def comparisons(seed: int) -> TokenBlock:
    """Five prompts with two or three rated responses of random tokens."""
    random = np.random.default_rng(seed)
    sizes = random.integers(2, 4, size=5)
    lengths = random.integers(6, 20, size=sizes.sum())
    mask = np.concatenate([np.arange(length) >= random.integers(1, length) for length in lengths])
    return TokenBlock(
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        tokens=random.integers(7, VOCAB_SIZE, size=len(mask)).astype(np.int32),
        response_mask=mask,
        rollout_logprobs=np.zeros(len(mask), dtype=np.float32),
        versions=np.full(len(mask), -1, dtype=np.int32),
        ranking=Ranking(
            edges=np.cumsum([0, *sizes]),
            ratings=np.concatenate([random.permutation(size) for size in sizes]).astype(np.float32),
        ),
    )


def batch_of(block: TokenBlock) -> Batch:
    plan = plan_block(block, number=0, num_ranks=2, tokens_per_micro_batch=64)
    return Batch(blocks=(block,), mini_batches=(plan,))


def slow_loss(block: TokenBlock, rewards: list[Tensor]) -> Tensor:
    """Mean over prompts of the mean over pairs."""
    assert block.ranking is not None
    edges, ratings, losses = block.ranking.edges.tolist(), block.ranking.ratings.tolist(), []
    for start, end in zip(edges[:-1], edges[1:], strict=True):  # noqa: RUF007
        rows = range(start, end)
        pairs = [-logsigmoid(rewards[i] - rewards[j]) for i in rows for j in rows if ratings[i] > ratings[j]]
        losses.append(torch.stack(pairs).mean())
    return torch.stack(losses).mean()


def train_alone(
    model: PreTrainedModel, spec: LearnerSpec, reward: Callable[[Tensor, Tensor], Tensor]
) -> dict[str, Tensor]:
    """`reward` of each response by itself, in transformers' own attention. Final weights."""
    config = spec.optimizer
    adam = torch.optim.AdamW(
        model.parameters(), betas=(config.beta1, config.beta2), eps=config.epsilon, weight_decay=config.weight_decay
    )
    for step in range(NUM_UPDATES):
        block = comparisons(step)
        adam.zero_grad()
        spans = [block.span(row) for row in range(len(block))]
        tokens = [torch.from_numpy(block.tokens[span].astype(np.int64)) for span in spans]
        masks = [torch.from_numpy(block.response_mask[span].copy()) for span in spans]
        slow_loss(block, [reward(*row) for row in zip(tokens, masks, strict=True)]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        adam.param_groups[0]["lr"] = learning_rate(config, step, spec.total_updates)
        adam.step()
    return {name: value.detach() for name, value in model.named_parameters()}


async def train_group(spec: LearnerSpec, export: Path, **options: Any) -> dict[str, float]:
    """Trains, measures on the first block, and exports. Returns what was measured."""
    group = await TrainerGroup.start(spec)
    try:
        for step in range(NUM_UPDATES):
            await group.update(batch_of(comparisons(step)))
        measured = await group.evaluate(batch_of(comparisons(0)))
        await group.export(export, **options)
        return dict(measured)
    finally:
        group.close()


def summed_logprob(model: PreTrainedModel, tokens: Tensor, mask: Tensor) -> Tensor:
    logprobs = model(tokens[None]).logits[0, :-1].log_softmax(-1).gather(1, tokens[1:, None])[:, 0]
    return logprobs[mask[1:]].sum()


def assert_same_weights(found: PreTrainedModel, expected: dict[str, Tensor]) -> None:
    weights = dict(found.named_parameters())
    assert weights.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(weights[name].detach(), weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("zero_stage", [2, 3])
def test_two_ranks_train_the_reward_model_that_one_process_does(policy: Path, tmp_path: Path, zero_stage: int) -> None:
    spec = spec_of(policy, tmp_path, RewardObjective(margin_scale=0.0), zero_stage)
    export = tmp_path / "export"
    normalization = RewardNormalization(mean=0.25, std=2.0)
    measured = asyncio.run(train_group(spec, export, normalization=normalization))

    alone = load_classifier(spec.model, seed=spec.seed)
    alone.set_attn_implementation("eager")
    expected = train_alone(alone, spec, lambda tokens, mask: alone(tokens[None]).logits[0, 0])
    exported = AutoModelForSequenceClassification.from_pretrained(export)
    assert exported.config.num_labels == 1
    assert_same_weights(exported, expected)

    block = comparisons(0)
    with torch.no_grad():
        rows = [torch.from_numpy(block.tokens[block.span(row)].astype(np.int64)) for row in range(len(block))]
        values = torch.stack([exported(tokens[None]).logits[0, 0] for tokens in rows])
    assert measured["eval/reward_mean"] == pytest.approx(float(values.mean()), abs=1e-5)
    assert measured["eval/reward_std"] == pytest.approx(float(values.std(correction=0)), abs=1e-5)

    # What the reward fleet makes of the folder: its own text encoding, and the stored shift.
    check_reward_model(str(export))
    item = RewardInput(prompt="1+1", response="2", answer=None)
    tokenizer = ScoringModel(str(export))
    turns = "<|user|>1+1<|end|><|assistant|>2<|end|>"
    ids = build_tokenizer(TokenizerConfig(), ())(turns, return_tensors="pt").input_ids
    raw = float(exported(ids).logits.detach())
    assert tokenizer.score_blocking([item])[0].value == pytest.approx((raw - 0.25) / 2, abs=1e-5)


@pytest.mark.parametrize("zero_stage", [2, 3])
def test_two_ranks_train_the_dpo_policy_that_one_process_does(policy: Path, tmp_path: Path, zero_stage: int) -> None:
    spec = spec_of(policy, tmp_path, DpoObjective(beta=0.5, label_smoothing=0.0), zero_stage)
    export = tmp_path / "export"
    asyncio.run(train_group(spec, export))

    alone, first = (AutoModelForCausalLM.from_pretrained(policy, attn_implementation="eager") for _ in range(2))

    def reward(tokens: Tensor, mask: Tensor) -> Tensor:
        return 0.5 * (summed_logprob(alone, tokens, mask) - summed_logprob(first, tokens, mask).detach())

    assert_same_weights(AutoModelForCausalLM.from_pretrained(export), train_alone(alone, spec, reward))
