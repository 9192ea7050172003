"""Adapters in real vLLM, by both ways of the weights, against transformers with peft and without any cache."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from peft import LoraConfig as PeftConfig
from peft import get_peft_model

from actors import weights
from actors.engine_environment import environment
from actors.messages import GroupRequest, RolloutSpec
from actors.rollout import RolloutWorker
from configs.schema import LoraConfig
from configs.schema.rollout import RolloutConfig
from experience.records import Sampling, TokenBlock, Weights
from tests.actors.tiny_policies import greedy, load_policy, logprobs_of, make_policy, named_tensors

EOS = 1
LORA = LoraConfig(rank=6, alpha=18)  # a rank that vLLM has no kernels for, and a scaling that is not 1
PREFIX = list(range(20, 90))  # common to all requests: two whole blocks of the cache


pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture(scope="module", params=["qwen3", "qwen2"])
def policy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("policy"), architecture=request.param)


@pytest.fixture(scope="module")
def merged_worker(policy: Path) -> Iterator[Any]:
    yield from worker_of(policy, None)


@pytest.fixture(scope="module")
def adapter_worker(policy: Path) -> Iterator[Any]:
    yield from worker_of(policy, LORA)


def worker_of(policy: Path, adapter: LoraConfig | None) -> Iterator[Any]:
    spec = RolloutSpec(
        model_path=str(policy), config=RolloutConfig(), max_model_len=256, stop_token_ids=(EOS,), adapter=adapter
    )
    actor = ray.remote(RolloutWorker).options(runtime_env={"env_vars": environment(spec)}).remote(spec)
    ray.get(actor.start.remote())
    yield actor
    ray.kill(actor)


def adapted(policy: Path, seed: int) -> Any:
    """The policy with an adapter of peft's, whose B is not zero."""
    config = PeftConfig(r=LORA.rank, lora_alpha=LORA.alpha, target_modules="all-linear")
    torch.manual_seed(seed)
    model: Any = get_peft_model(load_policy(policy), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return model.eval()


def adapter_of(model: Any) -> list[tuple[str, torch.Tensor]]:
    return [(name.replace(".default", ""), value) for name, value in model.named_parameters() if ".lora_" in name]


def publish(model: Any, version: int, *, merged: bool) -> Weights:
    tensors = named_tensors(model.merge_and_unload()) if merged else adapter_of(model)
    return weights.publish(version, [tensors[:5], tensors[5:]])


Sampled = dict[int, list[tuple[np.ndarray, np.ndarray]]]  # ticket -> (tokens, log-probs) of each response


def sample(worker: Any, temperature: float) -> Sampled:
    sampling = Sampling(num_samples=2, max_response_tokens=24, temperature=temperature, seed=7)
    requests = [
        GroupRequest(ticket=row, ordinal=row, tokens=np.array(prompt(row), dtype=np.int32), sampling=sampling)
        for row in range(4)
    ]
    ray.get(worker.submit.remote(requests))
    sampled: Sampled = {}
    while len(sampled) < len(requests):
        handle, reply = worker.collect.remote()
        block: TokenBlock = ray.get(handle)
        for group in ray.get(reply).groups:
            sampled[group.ticket] = [response_of(block, sample.row) for sample in group.samples]
    return sampled


def prompt(row: int) -> Sequence[int]:
    return [*PREFIX, 40 + row]


def response_of(block: TokenBlock, row: int) -> tuple[np.ndarray, np.ndarray]:
    mask = block.response_mask[block.span(row)]
    return block.tokens[block.span(row)][mask], block.rollout_logprobs[block.span(row)][mask]


def check_sampling(worker: Any, model: Any) -> None:
    """Log-probs and greedy tokens are the model's."""
    for row, responses in sample(worker, temperature=0.7).items():
        for tokens, logprobs in responses:
            expected = logprobs_of(model, np.concatenate([prompt(row), tokens]), 0.7)[len(prompt(row)) - 1 :]
            np.testing.assert_allclose(logprobs, expected, atol=1e-4)
    for row, responses in sample(worker, temperature=0.0).items():
        expected = greedy(model, np.array(prompt(row)), 24, EOS)
        assert [tokens.tolist() for tokens, _ in responses] == [expected, expected]


@pytest.mark.parametrize("merged", [True, False], ids=["merged", "adapter"])
def test_after_each_of_two_updates_the_engine_samples_what_peft_computes(
    policy: Path, merged: bool, request: pytest.FixtureRequest
) -> None:
    worker = request.getfixturevalue("merged_worker" if merged else "adapter_worker")
    for version in (1, 2):
        model = adapted(policy, seed=version)
        sent = publish(adapted(policy, seed=version), version, merged=merged)
        assert ray.get(worker.load.remote(sent)) == sent.checksum
        check_sampling(worker, model)


def test_an_adapter_that_does_not_fit_is_refused_and_the_one_before_stays(policy: Path, adapter_worker: Any) -> None:
    model = adapted(policy, seed=1)
    good = publish(model, 3, merged=False)
    ray.get(adapter_worker.load.remote(good))
    tensors = adapter_of(model)
    with pytest.raises(ValueError, match=r"lora_A.weight is missing"):
        ray.get(adapter_worker.load.remote(weights.publish(4, [tensors[1:]])))
    with pytest.raises(ValueError, match="published was"):
        changed = replace(good.handle[0], checksum="0")
        ray.get(adapter_worker.load.remote(replace(good, version=5, handle=(changed, *good.handle[1:]))))
    check_sampling(adapter_worker, model)
