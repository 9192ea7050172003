"""Bytes that one weight sync publishes: all weights, or the adapter alone. Reads a model folder's headers, no weights.

python -m benchmarks.lora MODEL_FOLDER [RANK ...]
"""

import sys
from collections.abc import Mapping
from math import prod
from pathlib import Path

from actors.weights import expected_shapes
from configs.schema import LoraConfig
from trainers.adapter_names import adapter_shapes


def mebibytes(shapes: Mapping[str, tuple[int, ...]], element_size: int = 4) -> float:
    """Size of tensors of these shapes, in float32 unless told otherwise."""
    return sum(map(prod, shapes.values())) * element_size / 2**20


def main() -> None:
    """Print one row a rank."""
    folder, *ranks = sys.argv[1:]
    whole = expected_shapes(Path(folder))
    print("| rank | merged, MiB | adapter, MiB | share |\n|---|---|---|---|")
    for rank in map(int, ranks or ["8", "16", "64"]):
        all_bytes, few_bytes = mebibytes(whole), mebibytes(adapter_shapes(whole, LoraConfig(rank=rank)))
        print(f"| {rank} | {all_bytes:.2f} | {few_bytes:.2f} | {few_bytes / all_bytes:.1%} |")


if __name__ == "__main__":
    main()
