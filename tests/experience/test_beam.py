"""Beam search against trying out every response there is."""

import asyncio
import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from experience.beam import NextTokens, beam_search
from experience.episode import NO_VERSION, Transcript
from experience.records import Sampling

PROMPT = np.array([7, 8], np.int32)
STOP, VOCAB = 0, 3


class Model:
    """Next tokens whose probabilities are a function of all tokens before."""

    def __init__(self, seed: int) -> None:
        self.seed, self.num_asked = seed, 0

    def logprobs(self, tokens: Sequence[int]) -> NDArray[np.float64]:
        logits = np.random.default_rng([self.seed, *tokens]).normal(scale=1.5, size=VOCAB)
        return logits - np.log(np.exp(logits).sum())

    async def expand(self, sequences: Sequence[NDArray[np.int32]], count: int) -> list[NextTokens]:
        self.num_asked += 1
        return [self._next(tokens.tolist(), count) for tokens in sequences]

    def _next(self, tokens: Sequence[int], count: int) -> NextTokens:
        logprobs = self.logprobs(tokens)
        best = np.argsort(-logprobs)[:count]
        return NextTokens(tokens=best.astype(np.int32), logprobs=logprobs[best].astype(np.float32), version=4)

    def all_responses(self, longest: int) -> dict[tuple[int, ...], float]:
        """Every whole response with its mean log-prob."""
        found = {}
        for length in range(1, longest + 1):
            for tokens in itertools.product(range(VOCAB), repeat=length):
                if STOP not in tokens[:-1] and (tokens[-1] == STOP or length == longest):
                    steps = (self.logprobs([*PROMPT, *tokens[:at]])[tokens[at]] for at in range(length))
                    found[tokens] = math.fsum(steps) / length
        return found


def search(model: Model, *, width: int, longest: int, count: int = 1) -> list[Transcript]:
    sampling = Sampling(num_samples=count, max_response_tokens=longest, temperature=0, seed=0, beam_width=width)
    return asyncio.run(beam_search(PROMPT, sampling, (STOP,), model.expand))


def tokens_of(transcript: Transcript) -> tuple[int, ...]:
    return tuple(transcript.tokens[transcript.response_mask].tolist())


@given(seed=st.integers(0, 10_000), longest=st.integers(1, 5), count=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_a_beam_as_wide_as_the_tree_finds_the_best_responses(seed: int, longest: int, count: int) -> None:
    model = Model(seed)
    everything = sorted(model.all_responses(longest).items(), key=lambda entry: -entry[1])[:count]
    found = search(model, width=VOCAB**longest, longest=longest, count=count)
    assert [tokens_of(each) for each in found] == [tokens for tokens, _ in everything]
    for transcript, (_, score) in zip(found, everything, strict=True):
        assert transcript.rollout_logprobs[transcript.response_mask].mean() == pytest.approx(score, abs=1e-5)


@given(seed=st.integers(0, 10_000), longest=st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_the_narrowest_beam_is_as_good_as_greedy(seed: int, longest: int) -> None:
    """It sees the greedy response, and goes on beside its end."""
    model, tokens = Model(seed), []
    while len(tokens) < longest and STOP not in tokens:
        tokens.append(int(np.argmax(model.logprobs([*PROMPT, *tokens]))))
    scores = model.all_responses(longest)
    [found] = search(model, width=1, longest=longest)
    assert scores[tokens_of(found)] >= scores[tuple(tokens)]


@given(seed=st.integers(0, 10_000), width=st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_ending_early_changes_nothing(seed: int, width: int) -> None:
    """The bound is on what could still come: a beam that is followed to the end finds the same."""

    class Patient(float):
        def __le__(self, other: object) -> bool:
            return False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experience.beam._best_hope", lambda alive, longest: Patient(0))
        patient = search(Model(seed), width=width, longest=8)
    assert [tokens_of(each) for each in search(Model(seed), width=width, longest=8)] == [*map(tokens_of, patient)]


def test_a_transcript_says_what_was_found_and_by_whom() -> None:
    model = Model(3)
    [found] = search(model, width=4, longest=6)
    before = len(PROMPT)
    assert found.tokens[:before].tolist() == PROMPT.tolist()
    assert found.versions.tolist() == [NO_VERSION] * before + [4] * (len(found.tokens) - before)
    assert found.rollout_logprobs[:before].tolist() == [0.0] * before
    assert found.finish_reason == ("stop" if found.tokens[-1] == STOP else "length")
