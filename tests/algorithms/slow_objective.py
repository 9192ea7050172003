"""The policy's objective written the slow and obvious way: scalar by scalar, sequence by sequence."""

import torch

from algorithms.algorithm import Algorithm
from algorithms.objective import LossInputs


def slow_policy_loss(row: Algorithm, inputs: LossInputs, max_response_tokens: int) -> torch.Tensor:
    """The loss of all sequences in `inputs` together, from the formulas."""
    num_sequences = int(inputs.sequence_ids.max()) + 1
    per_sequence = [_token_losses(row, inputs, number) for number in range(num_sequences)]
    num_tokens = sum(len(losses) for losses in per_sequence)
    zero = inputs.logprobs[0] * 0  # keeps a loss of constants on the graph
    match row.aggregation:
        case "token_mean":
            return sum((loss for losses in per_sequence for loss in losses), zero) / num_tokens
        case "seq_mean_token_mean":
            means = [sum(losses, zero) / len(losses) for losses in per_sequence if losses]
            return sum(means, zero) / num_sequences
        case "seq_mean_token_sum":
            return sum((sum(losses, zero) for losses in per_sequence), zero) / num_sequences
        case "seq_mean_token_sum_norm":
            sums = [sum(losses, zero) / max_response_tokens for losses in per_sequence]
            return sum(sums, zero) / num_sequences


def _token_losses(row: Algorithm, inputs: LossInputs, number: int) -> list[torch.Tensor]:
    places = [
        t for t in range(len(inputs.sequence_ids)) if inputs.sequence_ids[t] == number and inputs.response_mask[t]
    ]
    if not places:
        return []
    new = [inputs.logprobs[t] for t in places]
    old = [x.detach() for x in new] if inputs.old_logprobs is None else [inputs.old_logprobs[t] for t in places]
    engine = [inputs.rollout_logprobs[t] for t in places]
    ratios = [torch.exp(now - then) for now, then in zip(new, old, strict=True)]
    if row.ratio_level == "sequence":
        mean = torch.exp(sum(now.detach() - then for now, then in zip(new, old, strict=True)) / len(places))
        ratios = [mean * torch.exp(now - now.detach()) for now in new]
    token_weights = [torch.exp(lo - lb) for lo, lb in zip(old, engine, strict=True)]
    losses = []
    for i, t in enumerate(places):
        loss = _surrogate(row, ratios[i], new[i], inputs.advantages[t]) * _factor(row, token_weights, i)
        if row.kl_coef and row.kl_place == "loss":
            d = new[i] - inputs.ref_logprobs[t]
            loss = loss + row.kl_coef * {"k1": d, "k2": d**2 / 2, "k3": torch.exp(-d) + d - 1}[row.kl_estimator]
        losses.append(loss - row.entropy_coef * inputs.entropy[t])
    return losses


def _surrogate(row: Algorithm, ratio: torch.Tensor, logprob: torch.Tensor, advantage: torch.Tensor) -> torch.Tensor:
    if row.loss == "reinforce":
        return -advantage * logprob
    bounded = min(max(float(ratio.detach()), 1 - row.clip_low), 1 + row.clip_high)
    if row.loss == "cispo":
        return -bounded * advantage * logprob
    loss = -advantage * ratio
    if -advantage * bounded > loss:
        loss = -advantage * bounded
    if row.dual_clip and advantage < 0 and loss > -advantage * row.dual_clip:
        loss = -advantage * row.dual_clip
    return loss


def _factor(row: Algorithm, weights: list[torch.Tensor], i: int) -> float:
    token = float(weights[i])
    product = float(torch.stack(weights).prod())
    mean = product ** (1 / len(weights))
    low, high = row.rollout_correction.low, row.rollout_correction.high
    return {
        "none": 1.0,
        "tis": min(token, high),
        "sequence_tis": min(product, high),
        "icepop": token if low <= token <= high else 0.0,
        "mis": token if low <= token <= high else 0.0,
        "sequence_mis": product if low <= product <= high else 0.0,
        "geometric_mis": 1.0 if low <= mean <= high else 0.0,
    }[row.correction]
