"""Problems of reasoning-gym as a source of data, in files named by their settings."""

import importlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from configs.schema.data import ReasoningGymConfig
from experience.generated import write_generated
from rewards.contract import RewardInput
from rewards.gym import PACKAGE, score_reasoning_gym

# Part of the files' names: raise it when the same settings begin to give other rows, as with another version of the
# package.
GENERATOR_VERSION = 1
# Draws in a row without a new problem before there count as being no more.
_MAX_BARREN_DRAWS = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class GymProblem:
    """One problem as the package describes it: what its scorer needs besides an answer."""

    task: str
    question: str
    answer: str
    entry: str  # {question, answer, metadata} as JSON

    def row(self) -> dict[str, str]:
        """The problem as a row of data: prompt, answer, task, entry, a response that solves it, and both as a text."""
        prompt = f"{self.question.rstrip()}\n\nWrite the final answer between <answer> and </answer>."
        response = f"<answer>{self.answer}</answer>"
        text = f"{prompt}\n{response}"
        return {
            "prompt": prompt,
            "answer": self.answer,
            "task": self.task,
            "entry": self.entry,
            "response": response,
            "text": text,
        }

    def is_sound(self) -> bool:
        """Whether the reward takes the problem's own answer for right; a run could not learn it else."""
        row = self.row()
        item = RewardInput(prompt=row["prompt"], response=row["response"], answer=self.answer, columns=row)
        return score_reasoning_gym(item).value == 1.0


def write_gym(config: ReasoningGymConfig, folder: Path) -> tuple[Path, Path]:
    """Write the training and the held-out problems as Parquet; files of the same settings are reused."""
    return write_generated("reasoning-gym", GENERATOR_VERSION, config, gym_tables, folder)


def gym_tables(config: ReasoningGymConfig) -> tuple[pa.Table, pa.Table]:
    """Training and held-out rows {prompt, answer, task, entry, response, text}; no question is in both."""
    rows = [problem.row() for problem in gym_problems(config)]
    return pa.Table.from_pylist(rows[config.num_eval :]), pa.Table.from_pylist(rows[: config.num_eval])


def gym_problems(config: ReasoningGymConfig) -> list[GymProblem]:
    """Sound problems, each question once; ValueError when the package is absent or has not so many."""
    wanted = config.num_eval + config.num_train
    found: dict[str, GymProblem] = {}
    barren_draws = 0
    for problem in _drawn(config):
        barren_draws += 1
        if problem.question not in found and problem.is_sound():
            found[problem.question] = problem
            barren_draws = 0
        if len(found) == wanted:
            return list(found.values())
        if barren_draws == _MAX_BARREN_DRAWS:
            break
    raise ValueError(
        f"data.reasoning_gym: only {len(found)} of {wanted} distinct problems of {config.task} were found; "
        "ask for fewer, or for harder ones by data.reasoning_gym.args"
    )


def _drawn(config: ReasoningGymConfig) -> Iterator[GymProblem]:
    """Problems as they come, many more than are asked for."""
    wanted = config.num_eval + config.num_train
    dataset = _dataset(config, size=wanted + 10 * max(wanted, _MAX_BARREN_DRAWS))
    for number in range(len(dataset)):
        entry = dataset[number]
        yield GymProblem(
            task=config.task, question=entry["question"], answer=entry["answer"], entry=json.dumps(dict(entry))
        )


def _dataset(config: ReasoningGymConfig, size: int) -> Any:
    try:
        package = importlib.import_module(PACKAGE)
    except ImportError as error:
        raise ValueError(f"data.reasoning_gym: {error}; install it: pip install 'wutong[reasoning-gym]'") from error
    try:
        return package.create_dataset(config.task, seed=config.seed, size=size, **config.args)
    except (AssertionError, TypeError, ValueError) as error:
        kind = package.factory.DATASETS[config.task][1]
        names = ", ".join(name for name in kind.__dataclass_fields__ if name not in ("seed", "size"))
        raise ValueError(
            f"data.reasoning_gym.args={config.args}: {error or type(error).__name__}; {config.task} takes {names}"
        ) from error
