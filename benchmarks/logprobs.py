"""Memory and time of log-probs from hidden states: fused and chunked, against logits of the whole batch.

Run: OMP_NUM_THREADS=1 python -m benchmarks.logprobs [REPEATS] [--json FILE]
Each figure comes from a process of its own, since a peak can't be taken back.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from trainers.logprobs import score_tokens

# P positions, D hidden size, V vocabulary
_P, _D, _V = 2048, 256, 32_000
_VARIANTS = ("fused", "fused, entropy in the loss", "naive", "naive, entropy in the loss")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One variant: CPU seconds of a pass and the growth of its process's peak in MiB, once a process."""

    variant: str
    seconds: list[float]
    peaks: list[float]


def main() -> None:
    """Print medians over the processes of each variant."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("repeats", type=int, nargs="?", default=5)
    parser.add_argument("--variant", help="run this one alone, in this process")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    if asked.variant:
        run_variant(asked.variant)
        return
    found = measure(asked.repeats)
    print(f"P={_P} positions, D={_D}, V={_V}, float32, forward + backward, {asked.repeats} processes each")
    print(table(found))
    if asked.json:
        asked.json.write_text(json.dumps([asdict(each) for each in found], indent=1))


def measure(repeats: int) -> list[Measured]:
    """Every variant `repeats` times, in turn."""
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in _VARIANTS}
    for _ in range(repeats):
        for name, values in results.items():
            values.append(_in_own_process(name))
    return [
        Measured(variant=name, seconds=[seconds for seconds, _ in values], peaks=[peak for _, peak in values])
        for name, values in results.items()
    ]


def table(found: Sequence[Measured]) -> str:
    """Medians and spread."""
    lines = ["| variant | peak MiB | median CPU s | min - max |", "|---|---|---|---|"]
    for each in found:
        spread = f"{min(each.seconds):.2f} - {max(each.seconds):.2f}"
        lines.append(f"| {each.variant} | {median(each.peaks):.0f} | {median(each.seconds):.2f} | {spread} |")
    return "\n".join(lines)


def run_variant(variant: str) -> None:
    """Print CPU seconds and the growth of the process's peak, in MiB, for one forward and backward pass."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    hidden = torch.randn(_P, _D, requires_grad=True)
    weight = torch.nn.Parameter(torch.randn(_V, _D) * 0.05)
    targets = torch.randint(0, _V, (_P,))
    score = score_tokens if variant.startswith("fused") else score_naively
    with_entropy = "entropy" in variant
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    if with_entropy or score is score_tokens:
        logprobs, entropies = score(hidden, weight, targets, 0.8)
        loss = logprobs.sum() + entropies.sum() if with_entropy else logprobs.sum()
    else:
        loss = log_softmax(hidden, weight, 0.8).gather(-1, targets[:, None]).sum()
    loss.backward()
    seconds = time.process_time() - started
    print(seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def score_naively(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The same from the logits of all positions."""
    logprobs = log_softmax(hidden, weight, temperature)
    return logprobs.gather(-1, targets[:, None]).squeeze(-1), -(logprobs.exp() * logprobs).sum(-1)


def log_softmax(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    """Log-probs of all tokens, [P, V]."""
    return (hidden @ weight.T / temperature).log_softmax(-1)


def _in_own_process(variant: str) -> tuple[float, float]:
    command = [sys.executable, "-m", "benchmarks.logprobs", "--variant", variant]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds, peak = map(float, output.split())
    return seconds, peak


if __name__ == "__main__":
    main()
