"""Comparisons of GSM8K solutions as data, and what length alone would say of any comparisons.

python -m benchmarks.preferences prepare FOLDER   # FOLDER holds train.jsonl and model_solutions.jsonl
python -m benchmarks.preferences length FILE ...
"""

import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW

from algorithms.measures import finish, merge
from cluster.folder import RunFolder
from cluster.preferences import read_inputs
from configs.load import load_run
from configs.schema import DpoRun, RewardModelRun
from experience.dataset import load_dataset
from experience.parquet import write_parquet
from experience.records import Batch
from metrics.intervals import clustered_wilson
from trainers.model import PolicyModel, load_model
from trainers.objective import Model, Objective
from trainers.packed import pack
from trainers.reward_model import RewardModel, load_classifier
from trainers.schedule import learning_rate

OUTPUT = Path("runs/gsm8k-data")
HELD_OUT_SHARE = 0.4
MAX_CHARACTERS = 1000  # a few solutions repeat a line until they were cut, and are wrong by their looks


def prepare(folder: Path) -> None:
    """Pre-training text of the training problems; comparisons of solutions to other problems, split by question."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    problems = load_dataset(str(folder / "train.jsonl")).table.to_pylist()
    texts = [f"{row['question']}\n{row['answer'].partition('####')[0].strip()}" for row in problems]
    write_parquet(pa.table({"text": texts}), OUTPUT / "text.parquet")
    comparisons: dict[str, list[tuple[str, bool]]] = {}
    solutions = load_dataset(str(folder / "model_solutions.jsonl")).table.to_pylist()
    usable = [row for row in solutions if len(row["solution"]) <= MAX_CHARACTERS]
    print(f"{len(solutions) - len(usable)} of {len(solutions)} solutions left out: over {MAX_CHARACTERS} characters")
    for row in usable:
        comparisons.setdefault(row["question"], []).append((row["solution"], row["is_correct"]))
    questions = sorted(question for question, own in comparisons.items() if len({right for _, right in own}) > 1)
    random.Random(0).shuffle(questions)
    num_held_out = round(HELD_OUT_SHARE * len(questions))
    for name, part in (("eval", questions[:num_held_out]), ("train", questions[num_held_out:])):
        rows = [
            {"prompt": question, "responses": [text for text, _ in own], "ratings": [float(right) for _, right in own]}
            for question, own in ((question, comparisons[question]) for question in part)
        ]
        write_parquet(pa.Table.from_pylist(rows), OUTPUT / f"{name}.parquet")
        print(f"{name}: {len(rows)} questions")


def length(file: Path) -> None:
    """How often the longer response is the better one, with the interval clustered by prompt."""
    wins, trials = [], []
    for row in load_dataset(str(file)).table.to_pylist():
        own = list(zip(map(len, row["responses"]), row["ratings"], strict=True))
        pairs = [(a > b) + (a == b) / 2 for a, x in own for b, y in own if x > y]
        wins.append(sum(pairs))
        trials.append(len(pairs))
    w, n = np.array(wins, dtype=float), np.array(trials, dtype=float)
    low, high = clustered_wilson([float(x.sum()) for x in (w, n, w * w, w * n, n * n, np.ones(len(n)))])
    print(f"{file.name}: {n.sum():.0f} pairs, longer is better in {w.sum() / n.sum():.1%} ({low:.1%} to {high:.1%})")


def alone(recipe: str, overrides: Sequence[str]) -> None:
    """Train by the recipe on one thread, and export."""
    run = load_run(recipe, [*overrides, "trainer.num_ranks=1"])
    assert isinstance(run, RewardModelRun | DpoRun)
    torch.set_num_threads(1)
    folder = RunFolder(run)
    with folder.opened(resume=False):
        inputs = read_inputs(run, folder)
        assert inputs.held_out is not None
        model, reference = _models(run)
        config = run.optimizer
        adam = AdamW(model.parameters(), betas=(config.beta1, config.beta2), weight_decay=config.weight_decay)
        started = time.monotonic()
        for step in range(run.num_steps):
            batch = inputs.make_batch(step)
            (mini_batch,) = batch.mini_batches
            adam.zero_grad()
            for micro_batch in mini_batch.ranks[0]:
                packed = pack(batch.blocks, micro_batch)
                inputs.objective.loss(model, packed, mini_batch, reference).loss.backward()
            clip_grad_norm_(model.parameters(), config.max_grad_norm)
            adam.param_groups[0]["lr"] = learning_rate(config, step, run.num_steps)
            adam.step()
            if (step + 1) % max(1, run.num_steps // 10) == 0:
                measured = _measured(inputs.objective, model, inputs.held_out, reference)
                print(f"step {step + 1}, {time.monotonic() - started:.0f} s", measured, flush=True)
        model.pretrained.save_pretrained(folder.export)


def _models(run: RewardModelRun | DpoRun) -> tuple[PolicyModel | RewardModel, PolicyModel | None]:
    """The model to train, and the reference that DPO compares with."""
    if isinstance(run, RewardModelRun):
        return RewardModel(load_classifier(run.model, seed=run.seed)), None
    return PolicyModel(load_model(run.model)), PolicyModel(load_model(run.model)).requires_grad_(False)


@torch.no_grad()
def _measured(objective: Objective, model: Model, held_out: Batch, reference: Model | None) -> dict[str, float]:
    packs = [pack(held_out.blocks, micro_batch) for micro_batch in held_out.mini_batches[0].ranks[0]]
    metrics = finish(merge([objective.measure(model, packed, reference) for packed in packs]))
    return {name: round(value, 4) for name, value in metrics.items()}


def main() -> None:
    """See the top of the file."""
    command, *paths = sys.argv[1:]
    if command == "alone":
        alone(paths[0], paths[1:])
        return
    for path in map(Path, paths):
        {"prepare": prepare, "length": length}[command](path)


if __name__ == "__main__":
    main()
