"""Beam search: the likeliest responses to a prompt, as an episode over a handle that tells the next tokens."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from experience.episode import NO_VERSION, Transcript
from experience.records import FinishReason, Sampling

# W hypotheses of a beam, K likeliest next tokens of each


@dataclass(frozen=True, slots=True, kw_only=True)
class NextTokens:
    """The likeliest tokens after a sequence, likeliest first: [K] each. `version`: of the policy that said so."""

    tokens: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    version: int


# The `count` likeliest next tokens after each sequence; all, where the vocabulary has fewer.
Expand: TypeAlias = Callable[[Sequence[NDArray[np.int32]], int], Awaitable[Sequence[NextTokens]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hypothesis:
    """A response in the making, or a whole one. One entry a token."""

    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    versions: tuple[int, ...] = ()

    @property
    def total(self) -> float:
        """Its log-prob."""
        return sum(self.logprobs)

    @property
    def score(self) -> float:
        """By which whole responses are compared: the mean log-prob of a token."""
        return self.total / len(self.logprobs)

    def grown(self, token: int, logprob: float, version: int) -> "Hypothesis":
        """The same with one token more."""
        return Hypothesis(
            tokens=(*self.tokens, token), logprobs=(*self.logprobs, logprob), versions=(*self.versions, version)
        )


async def beam_search(
    prompt: NDArray[np.int32], sampling: Sampling, stop_token_ids: Collection[int], expand: Expand
) -> list[Transcript]:
    """The `sampling.num_samples` best responses that a beam of `sampling.beam_width` finds, best first.

    Responses in the making are compared by their log-prob, whole ones by its mean over their tokens (a length penalty
    of 1: Wu et al., arXiv:1609.08144, section 7, with lp = length). The search ends when no unfinished response could
    still be better than the worst of the best W whole ones, so that ending early changes nothing.
    """
    width, longest = sampling.beam_width, sampling.max_response_tokens
    assert sampling.num_samples <= width, "a beam finds no more responses than it is wide"
    alive, whole = [Hypothesis()], []
    for _ in range(longest):
        sequences = [np.concatenate([prompt, np.array(each.tokens, np.int32)], dtype=np.int32) for each in alive]
        # Of 2 W candidates at most W can be stops' (one for each hypothesis, where there is one stop token).
        candidates = _candidates(alive, await expand(sequences, width + len(stop_token_ids)))
        stopped = [each for each in candidates[:width] if each.tokens[-1] in stop_token_ids]
        alive = [each for each in candidates if each.tokens[-1] not in stop_token_ids][:width]
        whole = sorted([*whole, *stopped], key=lambda each: each.score, reverse=True)[:width]
        if not alive or (len(whole) == width and _best_hope(alive, longest) <= whole[-1].score):
            break
    cut = [each for each in alive if len(each.tokens) == longest]
    best = sorted([*whole, *cut], key=lambda each: each.score, reverse=True)[: sampling.num_samples]
    return [_transcript(prompt, each, "stop" if each.tokens[-1] in stop_token_ids else "length") for each in best]


def _candidates(alive: Sequence[Hypothesis], nexts: Sequence[NextTokens]) -> list[Hypothesis]:
    """All that may follow, likeliest first."""
    found = [
        each.grown(token, logprob, following.version)
        for each, following in zip(alive, nexts, strict=True)
        for token, logprob in zip(following.tokens.tolist(), following.logprobs.tolist(), strict=True)
    ]
    return sorted(found, key=lambda each: each.total, reverse=True)


def _best_hope(alive: Sequence[Hypothesis], longest: int) -> float:
    """The best score that any of them can still reach: every further token certain, and as many as there may be."""
    return max(each.total for each in alive) / longest


def _transcript(prompt: NDArray[np.int32], found: Hypothesis, finish_reason: FinishReason) -> Transcript:
    before, count = len(prompt), len(found.tokens)
    return Transcript(
        tokens=np.concatenate([prompt, np.array(found.tokens, np.int32)], dtype=np.int32),
        response_mask=np.arange(before + count) >= before,
        rollout_logprobs=np.concatenate([np.zeros(before), found.logprobs], dtype=np.float32),
        versions=np.concatenate([np.full(before, NO_VERSION), found.versions], dtype=np.int32),
        finish_reason=finish_reason,
    )
