"""What a GRPO step costs: wutong, synchronous and asynchronous, against the floor and TRL, interleaved on this machine.

    python -m benchmarks.steps [key=value ...] [--cases 1m-short ...] [--contestants floor ...] [--rounds 3]
        [--steps 12] [--models runs/contest] [--out benchmarks/results/steps.json]

Each round starts every contestant anew. Its first steps are left out of the medians; CPU seconds and memory (PSS)
are those of its process tree. What the file of `--out` has is kept, so that the rounds of a case can be measured
in several calls; a page of tables is written beside it.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import models
from benchmarks.contest.cases import CASES, RECIPE, Case
from benchmarks.contest.contestants import NAMES, TRL_PYTHON
from benchmarks.contest.machine import machine
from benchmarks.contest.measured import WARM_STEPS, Measured, load, save, summary, watch
from benchmarks.contest.table import page
from configs.load import load_run
from configs.schema import RlRun

RESULTS = Path("benchmarks/results/steps.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """Who is measured at what, how often. `overrides`: of the recipe, as `key=value`."""

    overrides: Sequence[str] = ()
    cases: Sequence[str] = tuple(CASES)
    contestants: Sequence[str] = NAMES
    rounds: int = 3
    steps: int = 12
    models: Path = models.FOLDER
    out: Path = RESULTS


def run(contestant: str, case: Case, settings: Sequence[str], found: Sequence[Measured]) -> Measured:
    """One run; its round is the next of this contestant in this case."""
    recipe = load_run(RECIPE, settings)
    assert isinstance(recipe, RlRun)
    earlier = sum(each.contestant == contestant and each.case == case.name for each in found)
    named: dict[str, str | int] = {
        "case": case.name,
        "contestant": contestant,
        "round": earlier,
        "machine": machine(),
    }
    steps = watch(contestant, RECIPE, settings)
    return summary(steps, named, recipe.rollout.prompts_per_step * recipe.rollout.group_size)


def hold(contest: Contest) -> list[Measured]:
    """The rounds, interleaved; each run is saved when it ends."""
    found = load(contest.out)
    for name in contest.cases:
        case = CASES[name]
        models.make(case, contest.models)
        settings = [*case.settings(contest.models), *contest.overrides, f"num_steps={contest.steps}"]
        for _ in range(contest.rounds):
            for contestant in contest.contestants:
                found.append(run(contestant, case, settings, found))
                print(f"{name} {contestant}: {found[-1].seconds:.2f} s/step", flush=True)
                save(contest.out, found)
    return found


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    default = Contest()
    options.add_argument("overrides", nargs="*")
    options.add_argument("--cases", nargs="+", choices=CASES, default=default.cases)
    options.add_argument("--contestants", nargs="+", choices=NAMES, default=default.contestants)
    options.add_argument("--rounds", type=int, default=default.rounds)
    options.add_argument("--steps", type=int, default=default.steps)
    options.add_argument("--models", type=Path, default=default.models)
    options.add_argument("--out", type=Path, default=default.out)
    return options


def main() -> None:
    """The contest, and its page."""
    options = parser()
    contest = Contest(**vars(options.parse_args()))
    if contest.steps <= WARM_STEPS:
        options.error(f"--steps {contest.steps}: the first {WARM_STEPS} are not counted; ask for more")
    if not TRL_PYTHON.exists() and {"trl", "trl_vllm"} & set(contest.contestants):
        options.error(f"{TRL_PYTHON} is missing: `make bench-setup`, or leave trl and trl_vllm out of --contestants")
    text = page(hold(contest))
    contest.out.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
