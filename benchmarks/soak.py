"""One run with real engines under `kill -9`s of random processes, resumed whenever it ended; a short form is a test.

python -m benchmarks.soak [--kills 20] [--steps 40] [--seed 1]
"""

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.cluster.small_runs import GROUP_SIZE, PROMPTS_PER_STEP
from tests.cluster.soak import Soak, make_soaked_run, soak


def exported(done: Soak) -> dict[str, torch.Tensor]:
    """The weights that the run ended with."""
    files = sorted((done.folder / "run" / "export").glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def main(kills: int, steps: int, seed: int) -> None:
    """Soak one run, leave another alone, compare."""
    with tempfile.TemporaryDirectory() as root:
        runs = {}
        for name, count in (("killed", kills), ("alone", 0)):
            folder = Path(root, name)
            folder.mkdir()
            make_soaked_run(folder, steps)
            begin = time.monotonic()
            runs[name] = soak(folder, num_kills=count, seed=seed, seconds=3600)
            print(f"{name}: {time.monotonic() - begin:.0f} s, ended with {runs[name].codes}", flush=True)
        killed, alone = runs["killed"], runs["alone"]
        for kind, count in Counter(killed.kills).most_common():
            print(f"  {count} x {kind}")
        expected = dict.fromkeys(range(steps * PROMPTS_PER_STEP), GROUP_SIZE)
        print(f"prompts trained on are those of the data's order, each once: {killed.ordinals == expected}")
        print(f"each step is logged once: {killed.steps == list(range(1, steps + 1))}")
        ours, theirs = exported(killed), exported(alone)
        same = ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
        print(f"weights equal, bit for bit, those of the run left alone: {same}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    main(arguments.kills, arguments.steps, arguments.seed)
