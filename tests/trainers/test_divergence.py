"""The divergence of responses: against a slow version, and against the true one where it is known."""

import math

import numpy as np
import pytest
import torch

from experience.records import Item, TokenBlock
from trainers.divergence import divergences
from trainers.passes import Packs


def block(logprobs: list[list[float]]) -> TokenBlock:
    """Sequences of a prompt of two tokens and a response with these log-probs."""
    lengths = [2 + len(row) for row in logprobs]
    return TokenBlock(
        offsets=np.cumsum([0, *lengths]),
        tokens=np.ones(sum(lengths), np.int32),
        response_mask=np.concatenate([[False] * 2 + [True] * len(row) for row in logprobs]),
        rollout_logprobs=np.concatenate([[0.0, 0.0, *row] for row in logprobs]).astype(np.float32),
        versions=np.zeros(sum(lengths), np.int32),
    )


def of(logprobs: list[list[float]], ref: list[list[float]]) -> list[float]:
    """What is found, in the order of the sequences; the reference says something of prompts too."""
    micro_batch = tuple(
        Item(block=0, row=row, num_tokens=2 + len(values), num_loss_tokens=len(values))
        for row, values in enumerate(logprobs)
    )
    scores = {micro_batch: torch.tensor([v for row in ref for v in (-9.0, -9.0, *row)]), (): torch.zeros(2)}
    found = divergences(scores, Packs([block(logprobs)], torch.device("cpu")))
    return [found[0, row] for row in range(len(logprobs))]


def test_each_response_has_the_sum_over_its_own_tokens() -> None:
    logprobs, ref = [[-0.5, -1.0], [-2.0], [-0.1, -0.2, -0.3]], [[-1.5, -1.0], [-1.0], [-0.1, -0.2, -3.3]]

    def slow(row: list[float], other: list[float]) -> float:
        return sum(math.exp(r - p) - (r - p) - 1 for p, r in zip(row, other, strict=True))

    assert of(logprobs, ref) == pytest.approx([slow(*pair) for pair in zip(logprobs, ref, strict=True)], rel=1e-5)


def test_equal_policies_have_none_and_no_response_has_less_than_that() -> None:
    generator = np.random.default_rng(0)
    logprobs, ref = (-generator.exponential(2, (50, 4)) for _ in range(2))
    assert of(logprobs.tolist(), logprobs.tolist()) == [0.0] * 50
    assert min(of(logprobs.tolist(), ref.tolist())) >= 0


def test_its_mean_over_samples_is_the_divergence_of_whole_responses() -> None:
    generator = np.random.default_rng(1)
    policy, reference, length = np.array([0.7, 0.2, 0.1]), np.array([0.3, 0.3, 0.4]), 3
    tokens = generator.choice(3, size=(4000, length), p=policy)
    found = of(np.log(policy)[tokens].tolist(), np.log(reference)[tokens].tolist())
    true = length * float(policy @ np.log(policy / reference))
    assert np.mean(found) == pytest.approx(true, abs=4 * np.std(found) / math.sqrt(4000))
