"""Evaluating a checkpoint: rollout workers alone, no trainer."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import ray
import torch
from safetensors import safe_open

from actors import weights
from actors.fleet import RolloutFleet
from actors.messages import RolloutSpec
from cluster.inputs import context_length, reward_examples
from cluster.session import ray_session
from configs.schema import (
    ClusterConfig,
    DataConfig,
    ModelConfig,
    RewardPoolConfig,
    RewardSpec,
    RolloutConfig,
)
from experience.dataset import load_dataset
from experience.prompts import PromptTable, eval_prompts
from experience.records import Prompt, Sampling, Weights
from experience.tokenizer import load_tokenizer, stop_token_ids
from rewards.pool import RewardPool
from trainers.evaluation import Answers, answer
from trainers.model_files import check_model


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRequest:
    """What to evaluate on what. `num_samples`: sampled responses a prompt, beside the greedy one; 0: greedy alone."""

    model: ModelConfig
    data: DataConfig
    rollout: RolloutConfig
    rewards: tuple[RewardSpec, ...]
    num_prompts: int
    num_samples: int
    seed: int = 0
    cluster: ClusterConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """The greedy responses, and the sampled ones where they were asked for."""

    greedy: Answers
    sampled: Answers | None


def evaluate(request: EvaluationRequest) -> EvaluationResult:
    """Sample and score held-out prompts. ValueError, in one line, for anything wrong in the request."""
    assert request.model.path is not None
    check_model(request.model)
    return asyncio.run(_evaluate(request, Path(request.model.path).resolve()))


async def _evaluate(request: EvaluationRequest, folder: Path) -> EvaluationResult:
    assert request.data.train is not None
    tokenizer = load_tokenizer(folder)
    table = PromptTable(load_dataset(request.data.train), tokenizer, request.data)
    prompts = eval_prompts(table, request.num_prompts)
    response = request.rollout.sampling.max_response_tokens
    longest = _longest_sequence(request.model, prompts, response)
    async with AsyncExitStack() as stack:
        pool = RewardPool(request.rewards, RewardPoolConfig())
        stack.callback(pool.close)
        pool.start(reward_examples(prompts[:2]))
        stack.enter_context(ray_session(request.cluster, num_cpus=request.rollout.num_workers))
        spec = RolloutSpec(
            model_path=str(folder),
            config=request.rollout,
            max_model_len=longest,
            stop_token_ids=stop_token_ids(tokenizer),
            use_gpu=ray.cluster_resources().get("GPU", 0) > 0,
        )
        fleet = RolloutFleet(spec)
        stack.push_async_callback(fleet.close)
        await fleet.start()
        await fleet.load(weights_on_disk(folder))
        sampling = Sampling(num_samples=1, max_response_tokens=response, temperature=0.0, seed=request.seed)
        greedy = await answer(fleet, pool, prompts, sampling)
        if not request.num_samples:
            return EvaluationResult(greedy=greedy, sampled=None)
        sampling = Sampling(
            num_samples=request.num_samples,
            max_response_tokens=response,
            temperature=request.rollout.sampling.temperature,
            seed=request.seed,
        )
        return EvaluationResult(greedy=greedy, sampled=await answer(fleet, pool, prompts, sampling))


def weights_on_disk(folder: Path) -> Weights:
    """A checkpoint's weights, published for rollout workers as version 0."""
    return weights.publish(0, _file_buckets(folder))


def _file_buckets(folder: Path) -> Iterator[Sequence[tuple[str, torch.Tensor]]]:
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            yield [(name, tensors.get_tensor(name)) for name in tensors.keys()]  # noqa: SIM118


def _longest_sequence(model: ModelConfig, prompts: Sequence[Prompt], max_response_tokens: int) -> int:
    """Tokens of the longest prompt with the longest response. ValueError when the model can't hold them."""
    prompt = max(len(prompt.tokens) for prompt in prompts)
    longest, limit = prompt + max_response_tokens, context_length(model)
    if limit is not None and longest > limit:
        raise ValueError(
            f"the longest prompt has {prompt} tokens; with --max-response-tokens={max_response_tokens} that makes "
            f"{longest}, and the model at {model.path} takes {limit}; lower it to {max(limit - prompt, 0)}"
        )
    return longest
