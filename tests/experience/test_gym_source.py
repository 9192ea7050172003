"""reasoning-gym as a source of data: what is refused without the package, and what comes of a recipe with it."""

import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from cluster.folder import RunFolder
from cluster.inputs import data_sources, prompt_tables
from configs.load import load_run
from configs.schema import DataConfig, ReasoningGymConfig, RewardPoolConfig, RewardSpec, RlRun, TokenizerConfig
from configs.schema.gym_tasks import GYM_TASKS
from experience.gym import gym_tables, write_gym
from experience.prompts import eval_prompts
from experience.tokenizer import build_tokenizer
from rewards.contract import RewardError, RewardInput, Status
from rewards.gym import score_reasoning_gym
from rewards.pool import RewardPool

RECIPE = Path(__file__).resolve().parents[2] / "configs" / "reasoning_gym" / "grpo.yaml"
COLUMNS = {"task": GYM_TASKS[0], "entry": "{}"}


def recipe(folder: Path, *overrides: str) -> RlRun:
    run = load_run(RECIPE, [f"output_dir={folder}", *overrides])
    assert isinstance(run, RlRun)
    return run


def without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)


def test_a_run_without_the_package_is_told_which_extra_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_the_package(monkeypatch)
    with pytest.raises(ValueError, match=r"^data\.reasoning_gym: .*install it: pip install 'wutong\[reasoning-gym\]'$"):
        data_sources(recipe(tmp_path).data, RunFolder(recipe(tmp_path)))


def test_the_reward_without_the_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    without_the_package(monkeypatch)
    item = RewardInput(prompt="?", response="no answer, as in a trial call", answer="1", columns=COLUMNS)
    with pytest.raises(RewardError, match=r"pip install 'wutong\[reasoning-gym\]'"):
        score_reasoning_gym(item)


@pytest.mark.parametrize("task", ["game_of_life_halting", "complex_arithmetic", "no_such_task"])
def test_a_task_that_is_not_allowed_is_refused_with_the_choices(tmp_path: Path, task: str) -> None:
    with pytest.raises(
        ValueError, match=rf"data\.reasoning_gym\.task: '{task}' is not allowed; choose one of {', '.join(GYM_TASKS)}"
    ):
        recipe(tmp_path, f"data.reasoning_gym.task={task}")


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"reasoning_gym": {"task": "lcm"}, "countdown": {}}, "set now: data.countdown, data.reasoning_gym"),
        ({"reasoning_gym": {"task": "lcm", "args": {"seed": 1}}}, "'seed' has no effect here"),
        ({"reasoning_gym": {"task": "lcm", "args": {"size": 1}}}, "'size' has no effect here"),
        ({"reasoning_gym": {}}, "task"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict, complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        DataConfig.model_validate(settings)


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"task": "game_of_life_halting", "entry": "{}"},
        {"task": ["lcm"], "entry": "{}"},
        {"task": "lcm"},
    ],
)
def test_a_row_without_an_allowed_task_and_its_problem_is_no_row_to_judge(columns: dict) -> None:
    score = score_reasoning_gym(RewardInput(prompt="?", response="<answer>1</answer>", answer="1", columns=columns))
    assert (score.status, score.value) == (Status.ERROR, None)


@pytest.fixture
def _package() -> None:
    pytest.importorskip("reasoning_gym", reason="needs the extra reasoning-gym")


@pytest.mark.usefixtures("_package")
@pytest.mark.parametrize(
    ("response", "status"),
    [
        ("it is 1", Status.NO_ANSWER),
        ("<think><answer>1</answer>", Status.NO_ANSWER),
        (f"<answer>{'1' * 401}</answer>", Status.REFUSED),
    ],
)
def test_a_response_without_one_answer_is_worth_nothing(response: str, status: Status) -> None:
    score = score_reasoning_gym(RewardInput(prompt="?", response=response, answer="1", columns=COLUMNS))
    assert (score.status, score.value) == (status, 0.0)


@pytest.mark.usefixtures("_package")
def test_a_recipe_reaches_prompts_that_the_pool_can_judge(tmp_path: Path) -> None:
    run = recipe(tmp_path, "data.reasoning_gym.num_train=20", "data.reasoning_gym.num_eval=5")
    run = run.model_copy(update={"data": run.data.model_copy(update={"max_prompt_tokens": 2000})})
    train, held_out = prompt_tables(run, build_tokenizer(TokenizerConfig(kind="characters"), []), RunFolder(run))
    assert held_out is not None
    assert (len(train), len(held_out)) == (20, 5)
    prompts = eval_prompts(held_out, 5)
    right, wrong = (
        [RewardInput(prompt=p.text, response=text(p), answer=p.answer, columns=p.columns) for p in prompts]
        for text in (lambda p: p.columns["response"], lambda p: f"<answer>{p.answer}0</answer>")
    )
    pool = RewardPool([RewardSpec(use="reasoning_gym", task=run.data.reasoning_gym.task)], RewardPoolConfig())  # type: ignore[union-attr]
    pool.start(right)
    try:
        assert [score.value for score in pool.score_blocking(right + wrong)] == [1.0] * 5 + [0.0] * 5
    finally:
        pool.close()


@pytest.mark.usefixtures("_package")
def test_no_held_out_question_is_trained_on_and_files_are_reused(tmp_path: Path) -> None:
    config = ReasoningGymConfig(task="letter_counting", num_train=200, num_eval=50, seed=3)
    train, held_out = (table.to_pylist() for table in gym_tables(config))
    questions, hidden = ({row["prompt"] for row in rows} for rows in (train, held_out))
    assert (len(questions), len(hidden), len(questions & hidden)) == (200, 50, 0)
    files = write_gym(config, tmp_path)
    times = [path.stat().st_mtime_ns for path in files]
    assert write_gym(config, tmp_path) == files
    assert [path.stat().st_mtime_ns for path in files] == times
    assert set(write_gym(config.model_copy(update={"args": {"min_words": 4}}), tmp_path)).isdisjoint(files)


@pytest.mark.usefixtures("_package")
@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        ({"numbers": 2}, r"data\.reasoning_gym\.args=.*unexpected keyword argument 'numbers'; lcm takes min_numbers"),
        ({"min_numbers": 9}, r"data\.reasoning_gym\.args=.*; lcm takes min_numbers, max_numbers"),
        ({"max_numbers": 2, "max_value": 3}, r"only \d+ of 1100 distinct problems of lcm"),
    ],
)
def test_settings_that_the_task_does_not_take_are_refused(args: dict, complaint: str) -> None:
    config = ReasoningGymConfig(task="lcm", num_train=1000, num_eval=100, args=args)
    with pytest.raises(ValueError, match=complaint):
        gym_tables(config)
