"""The rollout worker on real vLLM, against transformers without any cache."""

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from actors import weights
from actors.engine_environment import environment
from actors.messages import EngineFailed, GroupRequest, GroupResult, RolloutSpec, StartFacts
from actors.rollout import RolloutWorker
from configs.schema.rollout import RolloutConfig, SamplingConfig
from experience.beam import NextTokens, beam_search
from experience.records import Sampling, TokenBlock, Weights
from tests.actors.tiny_policies import greedy, load_policy, logprobs_of, make_policy, named_tensors

EOS = 1


class Tenant(RolloutWorker):
    """A worker that can become another one without a new process, whose imports would take seconds."""

    async def become(self, spec: RolloutSpec) -> StartFacts:
        if hasattr(self, "_engine"):
            await self.stop()
        self._num_lives = getattr(self, "_num_lives", 0) + 1
        # A process answers for its stacks under each name once.
        self.__init__(spec, f"tenant-{self._num_lives}")
        return await self.start()

    async def packed(self) -> set[str]:
        """The modules that multiply with a packed copy of their weights."""
        part: Any = await self._ask(lambda engine: engine._parts._model)  # type: ignore[attr-defined]
        return {name for name, module in part._model.named_modules() if hasattr(module, "cpu_linear")}


def spec_of(model: Path, stop_token_ids: tuple[int, ...] = (EOS,), **config: Any) -> RolloutSpec:
    chosen = RolloutConfig(**config)
    return RolloutSpec(model_path=str(model), config=chosen, max_model_len=256, stop_token_ids=stop_token_ids)


pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a policy's folder by architecture, tying and seed."""
    return lambda **made: make_policy(tmp_path_factory.mktemp("policy"), **made)


@pytest.fixture(scope="module")
def start_worker(cluster: None) -> Callable[[RolloutSpec], Any]:
    def start(spec: RolloutSpec) -> Any:
        actor = ray.remote(Tenant).options(runtime_env={"env_vars": environment(spec)}).remote(spec)
        ray.get(actor.start.remote())
        return actor

    return start


@pytest.fixture(scope="module")
def qwen(policies: Callable[..., Path]) -> Path:
    return policies()


@pytest.fixture(scope="module")
def worker(start_worker: Callable[[RolloutSpec], Any], qwen: Path) -> Any:
    return start_worker(spec_of(qwen))


def publish(folder: Path, version: int) -> Weights:
    """In two buckets, as a trainer would."""
    tensors = named_tensors(load_policy(folder))
    return weights.publish(version, [tensors[:3], tensors[3:]])


def request(ticket: int, tokens: Sequence[int] = (40, 41, 42), *, ordinal: int | None = None, **sampling: Any) -> Any:
    chosen = {"num_samples": 2, "max_response_tokens": 24, "temperature": 1.0, "seed": 7} | sampling
    return GroupRequest(
        ticket=ticket,
        ordinal=ticket if ordinal is None else ordinal,
        tokens=np.array(tokens, dtype=np.int32),
        sampling=Sampling(**chosen),
    )


Sampled = dict[int, list[tuple[np.ndarray, np.ndarray, np.ndarray]]]  # ticket -> (tokens, log-probs, versions)


def harvest(worker: Any, num_groups: int) -> tuple[list[GroupResult], Sampled]:
    """Collect so many groups; also the columns of their responses."""
    groups: list[GroupResult] = []
    columns: Sampled = {}
    while len(groups) < num_groups:
        handle, reply = worker.collect.remote()
        block: TokenBlock = ray.get(handle)
        for group in ray.get(reply).groups:
            groups.append(group)
            columns[group.ticket] = [response_of(block, sample.row) for sample in group.samples]
    return groups, columns


def response_of(block: TokenBlock, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    span = block.span(row)
    mask = block.response_mask[span]
    return block.tokens[span][mask], block.rollout_logprobs[span][mask], block.versions[span][mask]


def sample(worker: Any, requests: Sequence[GroupRequest]) -> Sampled:
    ray.get(worker.submit.remote(requests))
    return harvest(worker, len(requests))[1]


def test_before_its_first_weights_a_worker_refuses(worker: Any) -> None:
    with pytest.raises(ValueError, match="no proven weights"):
        ray.get(worker.submit.remote([request(0)]))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_those_of_the_sampled_distribution(worker: Any, qwen: Path, temperature: float) -> None:
    ray.get(worker.load.remote(publish(qwen, 1)))
    asked = [request(ticket, (40 + ticket, 50, 60), temperature=temperature) for ticket in range(4)]
    model = load_policy(qwen)
    for ticket, samples in sample(worker, asked).items():
        for tokens, logprobs, versions in samples:
            whole = np.concatenate([asked[ticket].tokens, tokens])
            expected = logprobs_of(model, whole, temperature)[2:]
            np.testing.assert_allclose(logprobs, expected, atol=1e-4)
            assert set(versions.tolist()) == {1}


def test_temperature_zero_is_greedy(worker: Any, qwen: Path) -> None:
    ray.get(worker.load.remote(publish(qwen, 1)))
    samples = sample(worker, [request(0, (30, 31), temperature=0.0)])[0]
    expected = greedy(load_policy(qwen), np.array([30, 31]), 24, EOS)
    assert [tokens.tolist() for tokens, _, _ in samples] == [expected, expected]


def test_a_beam_is_the_one_that_transformers_log_probs_lead_to(worker: Any, qwen: Path) -> None:
    ray.get(worker.load.remote(publish(qwen, 1)))
    asked = request(0, (30, 31), beam_width=3, num_samples=2, max_response_tokens=6)
    model = load_policy(qwen)

    async def expand(sequences: Sequence[np.ndarray], count: int) -> list[NextTokens]:
        found = []
        for tokens in sequences:
            with torch.no_grad():
                logprobs = model(torch.from_numpy(tokens.astype(np.int64))[None]).logits[0, -1].float().log_softmax(-1)
            best = logprobs.topk(count)
            found.append(
                NextTokens(tokens=best.indices.numpy().astype(np.int32), logprobs=best.values.numpy(), version=1)
            )
        return found

    expected = asyncio.run(beam_search(asked.tokens, asked.sampling, (EOS,), expand))
    found = sample(worker, [asked])[0]
    assert len(found) == 2
    for (tokens, logprobs, versions), transcript in zip(found, expected, strict=True):
        assert tokens.tolist() == transcript.tokens[transcript.response_mask].tolist()
        np.testing.assert_allclose(logprobs, transcript.rollout_logprobs[transcript.response_mask], atol=1e-4)
        assert set(versions.tolist()) == {1}
    assert ray.get(worker.status.remote()).num_unfinished == 0


def test_a_sample_does_not_depend_on_its_company(worker: Any, qwen: Path) -> None:
    ray.get(worker.load.remote(publish(qwen, 1)))
    ordinals = range(10, 18)
    together = sample(worker, [request(at, (at, at + 1), ordinal=at, num_samples=3) for at in ordinals])
    for at in ordinals:
        alone = sample(worker, [request(100 + at, (at, at + 1), ordinal=at, num_samples=3)])[100 + at]
        for (tokens, logprobs, _), (alone_tokens, alone_logprobs, _) in zip(together[at], alone, strict=True):
            assert np.array_equal(tokens, alone_tokens)
            assert np.array_equal(logprobs, alone_logprobs)


def test_prompts_that_one_step_cannot_take_in_change_no_sample(worker: Any, qwen: Path) -> None:
    ray.get(worker.load.remote(publish(qwen, 1)))
    long = [np.random.default_rng(at).integers(10, 90, 210).tolist() for at in range(60)]
    together = sample(worker, [request(at, long[at], ordinal=at) for at in range(60)])  # 12,600 prompt tokens
    for at in (0, 38, 39, 59):
        alone = sample(worker, [request(100, long[at], ordinal=at)])[100]
        for (tokens, logprobs, _), (alone_tokens, alone_logprobs, _) in zip(together[at], alone, strict=True):
            assert np.array_equal(tokens, alone_tokens)
            np.testing.assert_allclose(logprobs, alone_logprobs, atol=1e-5)


def test_samples_of_a_group_and_of_other_seeds_differ(worker: Any, qwen: Path) -> None:
    ray.get(worker.load.remote(publish(qwen, 1)))
    first = sample(worker, [request(0, ordinal=5, num_samples=4)])[0]
    other = sample(worker, [request(0, ordinal=5, num_samples=4, seed=8)])[0]
    assert len({tuple(tokens.tolist()) for tokens, _, _ in (*first, *other)}) == 8


def test_a_worker_tells_how_full_its_engine_is(worker: Any, qwen: Path) -> None:
    ray.get(worker.load.remote(publish(qwen, 1)))
    before = ray.get(worker.status.remote()).engine
    prompt = [40 + place % 20 for place in range(70)]  # two whole blocks of the cache
    ray.get(worker.submit.remote([request(0, prompt, num_samples=4, max_response_tokens=180)]))
    while (seen := ray.get(worker.status.remote()).engine).num_prefix_queries == before.num_prefix_queries:
        time.sleep(0.01)
    assert seen.num_running + seen.num_waiting == 4
    assert 0 < seen.kv_cache_usage < 1
    harvest(worker, 1)
    after = ray.get(worker.status.remote()).engine
    assert (after.num_running, after.num_waiting, after.kv_cache_usage) == (0, 0, 0)
    assert after.num_prefix_queries - before.num_prefix_queries == 4 * 70
    ray.get(worker.submit.remote([request(1, prompt, num_samples=1, max_response_tokens=2)]))
    harvest(worker, 1)
    again = ray.get(worker.status.remote()).engine
    assert again.num_prefix_hits - after.num_prefix_hits == 64  # the prompt's whole blocks are there from before


def test_results_describe_their_rows(worker: Any, qwen: Path) -> None:
    from transformers import AutoTokenizer

    ray.get(worker.load.remote(publish(qwen, 4)))
    ray.get(worker.submit.remote([request(0, (40, 41, 42), num_samples=3)]))
    (group,), columns = harvest(worker, 1)
    tokenizer = AutoTokenizer.from_pretrained(qwen)
    for result, (tokens, logprobs, _) in zip(group.samples, columns[0], strict=True):
        assert result.num_prompt_tokens == 3
        assert result.num_response_tokens == len(tokens)
        assert result.text == tokenizer.decode(tokens.tolist(), skip_special_tokens=True)
        assert (result.min_version, result.max_version) == (4, 4)
        assert result.mean_logprob == pytest.approx(logprobs.mean())
        assert result.finish_reason == ("stop" if tokens[-1] == EOS else "length")


def test_a_prompt_that_leaves_no_room_is_refused(worker: Any, qwen: Path) -> None:
    ray.get(worker.load.remote(publish(qwen, 1)))
    with pytest.raises(ValueError, match=r"250 tokens and a response of up to 24 exceed the engine's 256; lower data"):
        ray.get(worker.submit.remote([request(0, [40] * 250)]))
    assert sample(worker, [request(1, [40] * 232)])[1]


def test_refused_weights_leave_the_engine_as_it_was(worker: Any, qwen: Path) -> None:
    good = publish(qwen, 1)
    ray.get(worker.load.remote(good))
    before = sample(worker, [request(0)])[0]

    tensors = named_tensors(load_policy(qwen))
    with pytest.raises(ValueError, match=r"version 2 do not fit the model: .* is missing"):
        ray.get(worker.load.remote(weights.publish(2, [tensors[1:]])))
    forged = replace(good, version=2, handle=(good.handle[0], replace(good.handle[1], handle=good.handle[0].handle)))
    with pytest.raises(ValueError, match="version 2: bucket 1 has checksum"):
        ray.get(worker.load.remote(forged))

    after = sample(worker, [request(0)])[0]
    assert ray.get(worker.status.remote()).version == 1
    assert [tokens.tolist() for tokens, _, _ in after] == [tokens.tolist() for tokens, _, _ in before]


def test_publishing_a_name_twice_is_refused(qwen: Path) -> None:
    tensors = named_tensors(load_policy(qwen))
    with pytest.raises(ValueError, match=r"published twice: model\.embed_tokens\.weight"):
        weights.publish(1, [tensors, tensors[:1]])


def test_weights_loaded_in_flight_sample_the_rest(worker: Any, qwen: Path, policies: Callable[..., Path]) -> None:
    other = policies(seed=1)
    models = {1: load_policy(qwen), 2: load_policy(other)}
    second = publish(other, 2)
    ray.get(worker.load.remote(publish(qwen, 1)))
    begun = ray.get(worker.status.remote()).progress.num_tokens
    asked = [request(ticket, (40 + ticket, 50), max_response_tokens=250) for ticket in range(8)]
    ray.get(worker.submit.remote(asked))
    while ray.get(worker.status.remote()).progress.num_tokens < begun + 16:
        time.sleep(0.01)
    ray.get(worker.load.remote(second))

    seen = set()
    for ticket, samples in harvest(worker, len(asked))[1].items():
        for tokens, logprobs, versions in samples:
            whole = np.concatenate([asked[ticket].tokens, tokens])
            by_version = {version: logprobs_of(model, whole)[1:] for version, model in models.items()}
            expected = np.where(versions == 1, by_version[1], by_version[2])
            np.testing.assert_allclose(logprobs, expected, atol=1e-4)
            assert versions.tolist() == sorted(versions.tolist())
            seen.add((versions[0], versions[-1]))
    assert (1, 2) in seen, "the load came before the first token or after the last"


def test_old_keys_may_stay_under_running_sequences_and_serve_no_later_one(
    worker: Any, qwen: Path, policies: Callable[..., Path]
) -> None:
    other = policies(seed=1)
    models = {1: load_policy(qwen), 2: load_policy(other)}
    ray.get(worker.become.remote(spec_of(qwen, recompute_kv=False)))
    ray.get(worker.load.remote(publish(qwen, 1)))
    prompt = (*range(30, 75), *range(30, 75))  # several blocks of the prefix cache
    ray.get(worker.submit.remote([request(0, prompt, max_response_tokens=160)]))
    while ray.get(worker.status.remote()).progress.num_tokens < 16:
        time.sleep(0.01)
    ray.get(worker.load.remote(publish(other, 2)))
    ray.get(worker.submit.remote([request(1, prompt, max_response_tokens=8)]))
    found = harvest(worker, 2)[1]
    for tokens, logprobs, versions in found[1]:
        assert set(versions.tolist()) == {2}
        expected = logprobs_of(models[2], np.array([*prompt, *tokens]))[len(prompt) - 1 :]
        np.testing.assert_allclose(logprobs, expected, atol=1e-4)
    differences = []
    for tokens, logprobs, versions in found[0]:
        whole = np.array([*prompt, *tokens])
        old, new = (logprobs_of(models[version], whole)[len(prompt) - 1 :] for version in (1, 2))
        np.testing.assert_allclose(logprobs[versions == 1], old[versions == 1], atol=1e-4)
        differences.append(np.abs(logprobs - new)[versions == 2].max(initial=0.0))
    assert max(differences) > 1e-3, "some sequence went on with the keys and values of the old weights"
    ray.get(worker.become.remote(spec_of(qwen)))


@pytest.mark.parametrize(
    ("architecture", "tied"), [("qwen3", False), ("llama", True), ("llama", False), ("qwen3_moe", False)]
)
def test_after_a_load_the_policy_is_the_new_one(
    worker: Any, policies: Callable[..., Path], architecture: str, tied: bool
) -> None:
    folders = [policies(architecture=architecture, tied=tied, seed=seed) for seed in (0, 1)]
    ray.get(worker.become.remote(spec_of(folders[0])))
    for version, folder in enumerate(folders):
        ray.get(worker.load.remote(publish(folder, version)))
        sampled = sample(worker, [request(at, (30 + at, 31), temperature=0.0, num_samples=1) for at in range(4)])
        model = load_policy(folder)
        for at, ((tokens, logprobs, _),) in sampled.items():
            prompt = np.array([30 + at, 31])
            assert tokens.tolist() == greedy(model, prompt, 24, EOS)
            expected = logprobs_of(model, np.concatenate([prompt, tokens]))[1:]
            np.testing.assert_allclose(logprobs, expected, atol=1e-4)
    packed = ray.get(worker.packed.remote())
    assert "lm_head" in packed
    assert "model.embed_tokens" not in packed, "nothing multiplies with it: each load would pack it in vain"


def test_a_response_ends_with_the_first_stop_token(worker: Any, qwen: Path) -> None:
    stops = (EOS, *range(20, 40))
    ray.get(worker.become.remote(spec_of(qwen, stops)))
    ray.get(worker.load.remote(publish(qwen, 1)))
    ray.get(worker.submit.remote([request(0, num_samples=16, max_response_tokens=100)]))
    (group,), columns = harvest(worker, 1)
    for result, (tokens, _, _) in zip(group.samples, columns[0], strict=True):
        assert result.finish_reason == "stop"
        assert tokens[-1] in stops
        assert not set(tokens[:-1].tolist()) & set(stops)


def test_a_broken_engine_says_so_in_an_error_of_ours(worker: Any, qwen: Path) -> None:
    ray.get(worker.become.remote(spec_of(qwen)))
    ray.get(worker.load.remote(publish(qwen, 1)))
    ray.get(worker.submit.remote([request(0, [10**6])]))  # no such token: the embedding raises
    with pytest.raises(EngineFailed, match="rollout engine: IndexError"):
        ray.get(worker.collect.remote()[1])
    assert "IndexError" in ray.get(worker.status.remote()).error
    with pytest.raises(EngineFailed):
        ray.get(worker.submit.remote([request(1)]))
    assert "vllm" not in sys.modules


def test_settings_that_an_engine_would_not_obey_are_refused(qwen: Path) -> None:
    with pytest.raises(ValueError, match=r"temperature=0\.001"):
        replace(spec_of(qwen), config=RolloutConfig(sampling=SamplingConfig(temperature=0.001)))
