"""A layer's product with its weights as vLLM packs them on a CPU, and with the same weights unpacked.

    python -m benchmarks.products [--threads 1]

Why a weight sync pays for packing (benchmarks/sync.md): weights that are read where they lie need none, but
then every product of every token is slower. Of one machine, in one process, best of five.
"""

import argparse
import os
import time
from collections.abc import Callable

SHAPES = ((384, 1152), (1024, 384), (768, 2304), (768, 5120), (2048, 768))  # inputs, outputs of a layer
ROWS = (1, 8, 64, 512)  # sequences that are sampled at once
_FLOPS_A_LOOK = 2e8


def best(work: Callable[[], object], repeats: int) -> float:
    """Seconds of one, in the fastest of five looks."""
    work()
    looks = []
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(repeats):
            work()
        looks.append((time.perf_counter() - began) / repeats)
    return min(looks)


def products(num_inputs: int, num_outputs: int, num_rows: int) -> tuple[float, float, float]:
    """Seconds with packed weights, with [outputs, inputs] as they are trained, and with their transposed copy."""
    import torch
    import vllm._custom_ops as ops

    weight, rows = torch.randn(num_outputs, num_inputs), torch.randn(num_rows, num_inputs)
    packed = ops.create_onednn_mm(weight.t(), 32)
    transposed = weight.t().contiguous()
    repeats = max(3, min(1000, int(_FLOPS_A_LOOK / (num_rows * num_inputs * num_outputs))))
    with torch.inference_mode():
        return (
            best(lambda: ops.onednn_mm(packed, rows, None), repeats),
            best(lambda: torch.nn.functional.linear(rows, weight), repeats),
            best(lambda: torch.mm(rows, transposed), repeats),
        )


def main() -> None:
    """A table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", default="1")
    os.environ["OMP_NUM_THREADS"] = parser.parse_args().threads  # before torch is imported
    print("| layer | rows | packed, us | as trained | transposed |\n|---|---|---|---|---|")
    for num_inputs, num_outputs in SHAPES:
        for num_rows in ROWS:
            packed, plain, transposed = products(num_inputs, num_outputs, num_rows)
            slower = f"{plain / packed:.2f} | {transposed / packed:.2f}"
            print(f"| {num_inputs} x {num_outputs} | {num_rows} | {1e6 * packed:.0f} | {slower} |", flush=True)


if __name__ == "__main__":
    main()
