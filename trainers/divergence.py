"""How far a policy is from the reference, by the responses that it sampled."""

import torch

from algorithms.kl import kl_estimate
from experience.columns import Place, place_of
from trainers.passes import Packs, Scores

# T packed tokens of N sequences


def divergences(ref_logprobs: Scores, packs: Packs) -> dict[Place, float]:
    """An estimate of KL(policy || reference) in nats, for each sequence of a rank's micro-batches.

    The sum over a response's tokens of k3 = exp(-d) + d - 1, with d the engine's log-prob of the token less the
    reference's: never below 0, and its mean over responses of the policy is the divergence of whole responses
    (Schulman's note, 2020; the chain rule of the divergence).
    """
    found: dict[Place, float] = {}
    for micro_batch, ref in ref_logprobs.items():
        if not micro_batch:
            continue
        packed = packs[micro_batch]
        tokens = kl_estimate("k3", packed.rollout_logprobs.double(), ref.double())  # [T]
        counted = torch.where(packed.response_mask, tokens, 0.0)
        sums = counted.new_zeros(packed.num_sequences).index_add(0, packed.sequence_ids, counted)  # [N]
        found |= dict(zip(map(place_of, micro_batch), sums.tolist(), strict=True))
    return found
