"""What packing saves: forward and backward of one step, packed in several ways, against padded batches.

Run: OMP_NUM_THREADS=1 python -m benchmarks.packing [REPEATS] [--json FILE]
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from configs.schema import NewModelConfig
from experience.packing import plan_micro_batches
from experience.records import Item
from trainers.model import PolicyModel, SpecialTokens, new_model
from trainers.packed import pack_tokens

_BUDGET = 4096  # token slots of a micro-batch, padding included
_VOCAB_SIZE = 100
_MODEL = NewModelConfig(hidden_size=128, intermediate_size=512, num_layers=4, num_heads=4, num_kv_heads=2)

Lengths = Sequence[int]
Pass = Callable[[PolicyModel, Sequence[list[int]]], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One variant on sequences of some lengths: CPU seconds of a step, once a round."""

    lengths: str
    variant: str
    seconds: list[float]


def main() -> None:
    """Print a table for each distribution of lengths."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("repeats", type=int, nargs="?", default=5)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    AttentionInterface.register("loop", attend_one_by_one)
    AttentionMaskInterface.register("loop", lambda *args, **kwargs: None)
    found: list[Measured] = []
    for title, lengths in (("512 sequences of 32 tokens", [32] * 512), ("long tail", long_tail())):
        print(f"\n{title}: {len(lengths)} sequences, {sum(lengths)} tokens, longest {max(lengths)}")
        measured = measure(title, lengths, asked.repeats)
        print(table(measured))
        found += measured
    if asked.json:
        asked.json.write_text(json.dumps([asdict(each) for each in found], indent=1))


def long_tail() -> Lengths:
    """128 lengths, log-normal: mean about 144, none over 1024."""
    draws = np.random.default_rng(3).lognormal(mean=4.6, sigma=0.85, size=128)
    return [int(length) for length in draws.clip(16, 1024)]


def measure(title: str, lengths: Lengths, repeats: int) -> list[Measured]:
    """CPU seconds of each variant, `repeats` times in turn; other work moves them less than wall time.

    A first round warms up, and holds every variant's gradients against the first one's.
    """
    generator = np.random.default_rng(0)
    sequences = [generator.integers(0, _VOCAB_SIZE, length).tolist() for length in lengths]
    variants: dict[str, tuple[str, Pass]] = {
        "packed, segments": ("segments", packed_pass),
        "packed, one call a sequence": ("loop", packed_pass),
        "packed, sdpa with a dense mask": ("sdpa", packed_pass),
        "padded, sorted by length": ("sdpa", padded_sorted_pass),
        "padded, as they come": ("sdpa", padded_pass),
    }
    model = PolicyModel(
        new_model(_MODEL, vocab_size=_VOCAB_SIZE, seed=0, tokens=SpecialTokens(bos=None, eos=1, pad=0), dtype="float32")
    )
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    reference: Tensor | None = None
    for repeat in range(repeats + 1):
        for name, (implementation, run) in variants.items():
            model.causal_lm.set_attn_implementation(implementation)
            model.zero_grad()
            started = time.process_time()
            run(model, sequences)
            if repeat:
                seconds[name].append(time.process_time() - started)
                continue
            gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
            reference = gradient if reference is None else reference
            torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-4 * float(reference.abs().max()))
    return [Measured(lengths=title, variant=name, seconds=values) for name, values in seconds.items()]


def table(found: Sequence[Measured]) -> str:
    """Medians, spread, and how many times as long as the first variant."""
    base = median(found[0].seconds)
    lines = ["| variant | median CPU s | min - max | x segments |", "|---|---|---|---|"]
    for each in found:
        middle, spread = median(each.seconds), f"{min(each.seconds):.2f} - {max(each.seconds):.2f}"
        lines.append(f"| {each.variant} | {middle:.2f} | {spread} | {middle / base:.2f} |")
    return "\n".join(lines)


def packed_pass(model: PolicyModel, sequences: Sequence[list[int]]) -> float:
    """Sum of all log-probs, its gradient left in the model."""
    items = [Item(block=0, row=row, num_tokens=len(tokens)) for row, tokens in enumerate(sequences)]
    total = 0.0
    (micro_batches,) = plan_micro_batches([[item] for item in items], num_ranks=1, tokens_per_micro_batch=_BUDGET)
    for micro_batch in micro_batches:
        packed = pack_tokens([sequences[item.row] for item in micro_batch])
        every = torch.arange(packed.num_tokens)  # what sequences begin with by chance is not shared: others can't
        logprobs, _ = model(replace(packed, distinct=every, distinct_ids=every))
        logprobs.sum().backward()
        total += float(logprobs.detach().sum())
    return total


def padded_sorted_pass(model: PolicyModel, sequences: Sequence[list[int]]) -> float:
    """As `padded_pass`, with sequences of similar length together."""
    return padded_pass(model, sorted(sequences, key=len))


def padded_pass(model: PolicyModel, sequences: Sequence[list[int]]) -> float:
    """The same sum from right-padded rows; a batch takes rows while padding keeps it within the budget."""
    total, rows = 0.0, list[list[int]]()
    for tokens in sequences:
        if rows and (len(rows) + 1) * max(len(tokens), *map(len, rows)) > _BUDGET:
            total += _padded_batch(model, rows)
            rows = []
        rows.append(tokens)
    return total + _padded_batch(model, rows)


def _padded_batch(model: PolicyModel, rows: Sequence[list[int]]) -> float:
    longest = max(map(len, rows))
    ids = torch.tensor([tokens + [0] * (longest - len(tokens)) for tokens in rows])
    mask = torch.arange(longest) < torch.tensor([len(tokens) for tokens in rows])[:, None]
    hidden = model.causal_lm.base_model(input_ids=ids, attention_mask=mask.long(), use_cache=False).last_hidden_state
    logprobs, _ = model.head(hidden[:, :-1][mask[:, 1:]], ids[:, 1:][mask[:, 1:]], 1.0)
    logprobs.sum().backward()
    return float(logprobs.detach().sum())


def attend_one_by_one(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, **options: Any
) -> tuple[Tensor, None]:
    """Packed attention with one call a sequence."""
    edges = options["cu_seq_lens_q"].tolist()
    outputs = [
        F.scaled_dot_product_attention(
            query[:, :, start:end], key[:, :, start:end], value[:, :, start:end], is_causal=True, enable_gqa=True
        )
        for start, end in pairwise(edges)
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


if __name__ == "__main__":
    main()
