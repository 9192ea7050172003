"""Whether a GRPO step became slower against the floor: exit code 1 where a ratio is 15 % worse than the kept one.

    python -m benchmarks.quick [key=value ...] [--store] [--ratios benchmarks/ratios.json] [--models runs/contest]

The small model and the recipe's problems; a few short rounds of the floor, wutong synchronous and wutong
asynchronous, interleaved; medians of ratios within a round, so that a busy minute slows both sides of one.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import models
from benchmarks.contest.machine import machine
from benchmarks.contest.measured import Measured
from benchmarks.contest.stored import WORSE, load_ratios, store_ratios, worse
from benchmarks.contest.table import ratios, table
from benchmarks.steps import Contest, hold


def main() -> None:
    """Measure, then keep or compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--store", action="store_true", help="keep what is measured")
    parser.add_argument("--ratios", type=Path, default=Path("benchmarks/ratios.json"))
    parser.add_argument("--models", type=Path, default=models.FOLDER)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    asked = parser.parse_args()
    if not asked.store:
        load_ratios(asked.ratios)  # a missing file is told before minutes are spent
    with tempfile.TemporaryDirectory() as folder:
        found = hold(
            Contest(
                overrides=asked.overrides,
                cases=("1m-short",),
                contestants=("floor", "synchronous", "asynchronous"),
                rounds=asked.rounds,
                steps=asked.steps,
                models=asked.models,
                out=Path(folder) / "quick.json",
            )
        )
    print(table(found))
    print(settle(found, asked.ratios, store=asked.store))


def settle(found: Sequence[Measured], path: Path, *, store: bool) -> str:
    """Keep the ratios, or compare them with the kept ones: what came of it, or a SystemExit with what is worse."""
    if store:
        store_ratios(path, ratios(found), machine())
        return f"{path} has this machine's ratios"
    if slower := worse(load_ratios(path), ratios(found)):
        raise SystemExit("; ".join(slower))
    return f"no ratio is {WORSE:.0%} worse than {path} has it"


if __name__ == "__main__":
    main()
