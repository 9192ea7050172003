"""One engine on two devices, here two processes on a CPU, against transformers and the sampler's own arithmetic."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
import torch
from transformers import PreTrainedModel

from actors.channel import Channel, fingerprint, flattened
from actors.engine_environment import environment
from actors.messages import ChannelSpec, EngineFailed, RolloutSpec
from actors.rendezvous import ReservedAddress
from actors.rollout import RolloutWorker
from actors.sampler import uniform
from actors.weights import Bucket, Bytes, checksum_of, facts_of, fetch
from configs.schema.rollout import RolloutConfig
from experience.episode import sample_seed
from experience.records import Weights
from tests.actors.test_rollout import publish, request, sample
from tests.actors.tiny_policies import greedy, load_policy, logprobs_of, make_policy, named_tensors

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]

EOS = 1
PROMPT = (40, 41, 42)
ROUNDING = 1e-4  # of a cumulative probability, where sums run in another order


class Twofold(RolloutWorker):
    """A worker that can be given what no trainer sends."""

    async def load_changed(self, weights: Weights, bucket: int) -> str:
        """What the engine says of weights whose bytes change after this process has proven them."""
        contents = await fetch(weights)
        contents[bucket] = [changed(array) for array in contents[bucket]]

        def load(engine: Any) -> str:
            try:
                engine.load(weights, contents)
            except RuntimeError as error:  # here, since whatever leaves the engine's thread ends it
                return str(error)
            return ""

        return await self._ask(load)

    async def receive(self, weights: Weights) -> str:
        """What the engine says of weights that come through the channel."""

        def load(engine: Any) -> str:
            try:
                engine.load(weights, None)
            except RuntimeError as error:  # here, since whatever leaves the engine's thread ends it
                return str(error)
            return ""

        return await self._ask(load)


def changed(array: Bytes) -> Bytes:
    other = array.copy()
    other[-1] ^= 1
    return other


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of one shape. One key-value head to two devices: each has a copy of it."""
    return [make_policy(tmp_path_factory.mktemp("policy"), seed=seed) for seed in (0, 1)]


@pytest.fixture(scope="module")
def before() -> set[Path]:
    """What has a name in shared memory and is not of these tests."""
    return set(Path("/dev/shm").iterdir())


@pytest.fixture(scope="module")
def worker(cluster: None, before: set[Path], policies: list[Path]) -> Iterator[Any]:
    config = RolloutConfig(tensor_parallel_size=2)
    spec = RolloutSpec(model_path=str(policies[0]), config=config, max_model_len=256, stop_token_ids=(EOS,))
    actor = ray.remote(Twofold).options(runtime_env={"env_vars": environment(spec)}).remote(spec)
    ray.get(actor.start.remote())
    ray.get(actor.load.remote(publish(policies[0], 1)))
    yield actor
    ray.kill(actor)


def test_no_shared_memory_has_a_name_that_a_killed_engine_would_leave(worker: Any, before: set[Path]) -> None:
    assert not {path for path in set(Path("/dev/shm").iterdir()) - before if path.name.startswith(("psm_", "vllm"))}


def test_greedy_tokens_are_those_of_the_model(worker: Any, policies: list[Path]) -> None:
    model = load_policy(policies[0])
    asked = [request(ticket, (40 + ticket, 50, 60), temperature=0.0, num_samples=1) for ticket in range(6)]
    for ticket, ((tokens, _, _),) in sample(worker, asked).items():
        assert tokens.tolist() == greedy(model, asked[ticket].tokens, 24, EOS)


def test_samples_are_what_their_seeds_name(worker: Any, policies: list[Path]) -> None:
    model = load_policy(policies[0])
    asked = [request(ticket, (40 + ticket, 50), temperature=0.8, num_samples=4) for ticket in range(4)]
    num_tokens = num_named = 0
    for ticket, samples in sample(worker, asked).items():
        for index, (tokens, logprobs, _) in enumerate(samples):
            row = np.concatenate([asked[ticket].tokens, tokens])
            np.testing.assert_allclose(logprobs, logprobs_of(model, row, 0.8)[1:], atol=1e-4)
            named, margins = named_tokens(model, row, len(tokens), 0.8, sample_seed(7, ticket, index))
            num_tokens, num_named = num_tokens + len(tokens), num_named + int((named == tokens).sum())
            assert (named == tokens)[margins > ROUNDING].all()
    assert num_tokens > 200
    assert num_named >= 0.99 * num_tokens


@torch.no_grad()
def named_tokens(
    model: PreTrainedModel, row: np.ndarray, num_sampled: int, temperature: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """For each of the last tokens of `row`: the one that its draw falls on, and how far that is from a neighbour."""
    logits = model(torch.from_numpy(row.astype(np.int64))[None]).logits[0, -num_sampled - 1 : -1].double()
    cumulative = (logits / temperature).softmax(-1).cumsum(-1).numpy()
    draws = uniform([seed] * num_sampled, np.arange(len(row) - num_sampled, len(row)))
    named = (cumulative > draws[:, None]).argmax(-1)
    return named, np.abs(cumulative - draws[:, None]).min(-1)


def test_a_sample_does_not_depend_on_the_others_of_its_batch(worker: Any) -> None:
    alone = sample(worker, [request(0, ordinal=5)])[0]
    among = sample(worker, [request(ticket, ordinal=ticket + 5) for ticket in range(12)])[0]
    for (one, _, _), (other, _, _) in zip(alone, among, strict=True):
        assert one.tolist() == other.tolist()


def test_the_next_version_is_proven_and_sampled_from(worker: Any, policies: list[Path]) -> None:
    published = publish(policies[1], 2)
    assert ray.get(worker.load.remote(published)) == published.checksum
    model = load_policy(policies[1])
    ((tokens, logprobs, versions),) = sample(worker, [request(0, num_samples=1)])[0]
    assert set(versions) == {2}
    np.testing.assert_allclose(logprobs, logprobs_of(model, np.concatenate([PROMPT, tokens]))[2:], atol=1e-4)


def test_bytes_that_changed_on_the_way_are_refused_by_every_process(worker: Any, policies: list[Path]) -> None:
    published = publish(policies[0], 3)
    told = ray.get(worker.load_changed.remote(published, 0))
    assert "weights version 3, bucket 0 has checksum" in told
    assert "process 0 found" in told and "process 1 found" in told
    wrong = replace(published, checksum="of another version")
    with pytest.raises(ValueError, match="its buckets are not those of its checksum"):
        ray.get(worker.load.remote(wrong))
    assert ray.get(worker.load.remote(published)) == published.checksum
    ((tokens, _, _),) = sample(worker, [request(0, temperature=0.0, num_samples=1)])[0]
    assert tokens.tolist() == greedy(load_policy(policies[0]), np.array(PROMPT), 24, EOS)


def test_both_devices_receive_what_is_sent_to_all_and_tell_when_it_is_not_what_was_offered(
    worker: Any, policies: list[Path]
) -> None:
    reserved = ReservedAddress()
    (host, port), listener = reserved.address, reserved.hand_over(0)
    spec = ChannelSpec(host=host, port=port, size=3, timeout_seconds=60, use_gpu=False)
    met = worker.meet.remote(spec, 1)
    sender = Channel(spec, 0, listener)
    ray.get(met)
    tensors = named_tensors(load_policy(policies[0]))
    sent = [tensors[:3], tensors[3:]]
    facts = [tuple(facts_of(name, tensor) for name, tensor in bucket) for bucket in sent]
    flats = [flattened(bucket, own) for bucket, own in zip(sent, facts, strict=True)]
    buckets = tuple(
        Bucket(facts=own, checksum=fingerprint(flat), handle=None) for own, flat in zip(facts, flats, strict=True)
    )
    offered = Weights(version=3, checksum=checksum_of(buckets), handle=buckets)

    def receive(flats: Sequence[torch.Tensor]) -> str:
        told = worker.receive.remote(offered)
        for flat in flats:
            sender.send(flat)
        return ray.get(told)

    assert receive(flats) == ""
    ((tokens, _, _),) = sample(worker, [request(0, PROMPT, temperature=0.0, num_samples=1)])[0]
    assert tokens.tolist() == greedy(load_policy(policies[0]), np.array(PROMPT), 24, EOS)
    flats[0][0] ^= 1
    wrong = receive(flats)
    assert re.fullmatch(r"weights version 3 has checksum \w+ as published, but process 0 .*; process 1 .*", wrong)
    ray.get(worker.load.remote(publish(policies[1], 4)))


def test_the_death_of_one_process_is_told_and_ends_the_other(worker: Any) -> None:
    """In the midst of sampling: the other one then waits in a collective for what never comes."""
    pid = ray.get(worker.__ray_call__.remote(lambda _: __import__("os").getpid()))
    processes = psutil.Process(pid).children(recursive=True)
    parts = [process for process in processes if "VLLM::Worker" in " ".join(process.cmdline())]
    assert len(parts) == 2
    ray.get(worker.submit.remote([request(t, num_samples=16, max_response_tokens=250) for t in range(20)]))
    before = ray.get(worker.status.remote()).progress.num_steps
    wait_until(lambda: ray.get(worker.status.remote()).progress.num_steps > before + 3, 60)
    parts[1].kill()
    killed = time.monotonic()
    wait_until(lambda: ray.get(worker.status.remote()).error is not None, 20)
    assert time.monotonic() - killed < 10
    assert "of the engine's 2 processes died" in ray.get(worker.status.remote()).error
    with pytest.raises(EngineFailed, match="2 processes died"):
        ray.get(worker.submit.remote([request(99)]))
    wait_until(lambda: not any(map(is_alive, parts)), 5)
    ray.kill(worker)
    assert not psutil.wait_procs(processes, timeout=10)[1]


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(is_so: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)
