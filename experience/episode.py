"""An episode: what happens to one sample of one prompt, as a coroutine over a `generate` handle.

A single response is the smallest case. Turns, tools and environments are longer coroutines of the same
kind: tokens go in and tokens come out, and nothing is ever decoded and tokenised again.
"""

import struct
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import xxhash
from numpy.typing import NDArray

from experience.records import FinishReason, Sampling, TokenBlock

NO_VERSION = -1  # of tokens that no policy sampled


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What an engine sampled in one go: the tokens (the stop token included) and, for each, its
    log-prob under the distribution it was drawn from and the policy version that drew it.

    `top_tokens`, `top_logprobs`: [tokens, K], the likeliest at each place, likeliest first; K is 0 unless asked for.
    """

    tokens: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    versions: NDArray[np.int32]
    finish_reason: FinishReason
    top_tokens: NDArray[np.int32] | None = None
    top_logprobs: NDArray[np.float32] | None = None


# Samples up to so many tokens after the given ones.
Generate: TypeAlias = Callable[[NDArray[np.int32], int], Awaitable[Completion]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """The token columns of one trajectory, as in a TokenBlock, and how it ended."""

    tokens: NDArray[np.int32]
    response_mask: NDArray[np.bool_]
    rollout_logprobs: NDArray[np.float32]
    versions: NDArray[np.int32]
    finish_reason: FinishReason


async def single_turn(prompt: NDArray[np.int32], sampling: Sampling, generate: Generate) -> Transcript:
    """One response to the prompt, and nothing after it."""
    response = await generate(prompt, sampling.max_response_tokens)
    before = len(prompt)
    return Transcript(
        tokens=np.concatenate([prompt, response.tokens], dtype=np.int32),
        response_mask=np.arange(before + len(response.tokens)) >= before,
        rollout_logprobs=np.concatenate([np.zeros(before), response.logprobs], dtype=np.float32),
        versions=np.concatenate([np.full(before, NO_VERSION), response.versions], dtype=np.int32),
        finish_reason=response.finish_reason,
    )


def pack(transcripts: Sequence[Transcript]) -> TokenBlock:
    """One block with the transcripts as its rows, in order. At least one, else ValueError."""
    if not transcripts:
        raise ValueError("a block needs at least one transcript")
    lengths = [len(transcript.tokens) for transcript in transcripts]
    return TokenBlock(
        offsets=np.concatenate([[0], np.cumsum(lengths)], dtype=np.int64),
        tokens=np.concatenate([transcript.tokens for transcript in transcripts]),
        response_mask=np.concatenate([transcript.response_mask for transcript in transcripts]),
        rollout_logprobs=np.concatenate([transcript.rollout_logprobs for transcript in transcripts]),
        versions=np.concatenate([transcript.versions for transcript in transcripts]),
    )


def sample_seed(seed: int, ordinal: int, index: int, turn: int = 0) -> int:
    """The engine's seed for one turn of one sample, in [0, 2^63).

    A function of the run's seed and the sample's identity, so its tokens depend on neither the worker nor
    the batch that it happens to be sampled in.
    """
    return xxhash.xxh3_64_intdigest(struct.pack("<4q", seed, ordinal, index, turn)) >> 1
