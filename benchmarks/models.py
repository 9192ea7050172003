"""The policies of the contest, each made once: `python -m benchmarks.models [--models FOLDER] [--cases NAME ...]`.

NAME is a case of benchmarks/contest/cases.py, like `10m-tailed`: a model from random weights that has read chains of
arithmetic for a while, then SFT on the case's problems, ended while it still makes mistakes. The long-tailed problems
have one operation mostly and up to eight, so that the longest response is several times the mean.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.contest.cases import CASES, Case, data_settings
from configs.schema.data import ArithmeticConfig
from experience.arithmetic import arithmetic_tables

FOLDER = Path("runs/contest")
_WUTONG = str(Path(sys.executable).with_name("wutong"))
# Operations -> (digits, training problems, held-out problems)
_MIXTURE = {1: (2, 3000, 64), 2: (1, 900, 64), 3: (1, 400, 64), 5: (1, 200, 64), 8: (1, 200, 64)}
_PRETRAIN: dict[str, list[str]] = {
    "1m": [],
    "10m": [
        "model.new.hidden_size=384",
        "model.new.intermediate_size=1024",
        "model.new.num_layers=6",
        "model.new.num_heads=6",
        "num_steps=80",
        "sequences_per_step=12",
        "optimizer.learning_rate=1e-3",
    ],
}
_SFT: dict[str, list[str]] = {
    "1m": [],
    "10m": ["num_steps=240", "sequences_per_step=24", "optimizer.learning_rate=1e-3"],
}


def make(case: Case, models: Path) -> Path:
    """The export of a case's policy; what is there is not made again."""
    if case.shape == "tailed":
        write_mixture(models)
    folder = models / case.size
    export = folder / case.shape / "export"
    for recipe, name, settings in stages(case, models):
        if not (export.exists() or (folder / name / "export").exists()):
            _train(recipe, folder, name, settings)
    return export


def stages(case: Case, models: Path) -> list[tuple[str, str, list[str]]]:
    """Recipe, name of the run and overrides of each stage, in order; cases of a size share the first one."""
    pretrained = models / case.size / "pretrain" / "export"
    sft = [f"model.path={pretrained}", *data_settings(case.shape, models), "max_sequence_tokens=256"]
    return [
        ("configs/arithmetic/pretrain.yaml", "pretrain", _PRETRAIN[case.size]),
        ("configs/arithmetic/sft.yaml", case.shape, sft + _SFT[case.size]),
    ]


def write_mixture(models: Path) -> None:
    """Training and held-out problems of mixed length as Parquet."""
    tables = [
        arithmetic_tables(ArithmeticConfig(digits=digits, steps=steps, num_train=num_train, num_eval=num_eval, seed=7))
        for steps, (digits, num_train, num_eval) in _MIXTURE.items()
    ]
    models.mkdir(parents=True, exist_ok=True)
    for name, place in (("mixed", 0), ("held_out", 1)):
        pq.write_table(pa.concat_tables([pair[place] for pair in tables]), models / f"{name}.parquet")


def _train(recipe: str, folder: Path, name: str, settings: Sequence[str]) -> None:
    print(f"making {folder / name}: some minutes, once", flush=True)
    command = [_WUTONG, "train", recipe, f"output_dir={folder}", f"name={name}"]
    subprocess.run([*command, "logging.tensorboard=false", *settings], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """The policies asked for, all by default."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--models", type=Path, default=FOLDER)
    asked = parser.parse_args()
    for name in asked.cases:
        print(make(CASES[name], asked.models))


if __name__ == "__main__":
    main()
