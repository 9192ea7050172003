"""Rewards that users write: a function in a file, and what they are told when it is unfit."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from configs.schema.rewards import RewardPoolConfig, RewardSpec
from rewards.contract import RewardError, RewardInput, Score, Status
from rewards.pool import RewardPool

ROOT = Path(__file__).resolve().parents[2]
ROWS = [
    RewardInput(
        prompt="p", response=text, answer="a", columns={"level": level}, num_response_tokens=level, id=str(level)
    )
    for level, text in enumerate(["zero", "one", "two"])
]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., list[Score]]]:
    """Writes a file, starts a pool on one of its functions with a trial on real rows, and scores them."""
    pools = []

    def run_file(source: str, use: str = "score", rows: list[RewardInput] = ROWS, **args: object) -> list[Score]:
        (tmp_path / "my_rules.py").write_text(source, encoding="utf-8")
        spec = RewardSpec(use=f"./my_rules.py:{use}", args=args)
        pools.append(pool := RewardPool([spec], RewardPoolConfig(timeout_seconds=2), folder=tmp_path))
        pool.start(rows[:2])
        return pool.score_blocking(rows)

    yield run_file
    for pool in pools:
        pool.close()


@pytest.mark.parametrize(
    "source",
    [
        "def score(item): return item.columns['level'] / 2",
        "def score(item, scale=2): return item.num_response_tokens / scale",
        "async def score(item): return item.columns['level'] / 2",
        "def score(items): return [item.columns['level'] / 2 for item in items]",
        "async def score(items, **args): return [item.columns['level'] / 2 for item in items]",
        "import numpy as np\ndef score(items): return np.array([item.columns['level'] / 2 for item in items])",
        "import numpy as np\ndef score(item): return np.float32(item.columns['level'] / 2)",
        "from rewards.contract import Score\ndef score(item): return Score(value=item.columns['level'] / 2)",
        "class Rule:\n    def __call__(self, item): return item.columns['level'] / 2\nscore = Rule()",
    ],
)
def test_a_plain_function_is_a_reward(run: Callable[..., list[Score]], source: str) -> None:
    assert [score.value for score in run(source)] == [0.0, 0.5, 1.0]


def test_arguments_come_from_the_recipe(run: Callable[..., list[Score]]) -> None:
    scores = run("def brevity(item, target=400): return -abs(item.num_response_tokens - target)", "brevity", target=2)
    assert [score.value for score in scores] == [-2.0, -1.0, 0.0]


def test_a_score_may_carry_a_detail_and_parts(run: Callable[..., list[Score]]) -> None:
    source = (
        "from rewards.contract import Score, Status\n"
        "def score(item): return Score(value=0.5, status=Status.REFUSED, detail='why', parts={'tone': 1})"
    )
    assert run(source)[0] == Score(
        value=0.5, status=Status.REFUSED, detail="score: why", parts={"score": 0.5, "score/tone": 1.0}
    )


@pytest.mark.parametrize(
    ("result", "value", "status"),
    [
        ("1", 1.0, Status.OK),
        ("True", 1.0, Status.OK),
        ("np.float64(0.5)", 0.5, Status.OK),
        ("np.array([2])", 2.0, Status.OK),
        ("np.int64(3)", 3.0, Status.OK),
        ("torch.tensor(0.25)", 0.25, Status.OK),
        ("None", None, Status.ABSTAIN),
        ("float('nan')", None, Status.ERROR),
        ("float('inf')", None, Status.ERROR),
        ("10 ** 400", None, Status.ERROR),
        ("'1.0'", None, Status.ERROR),
        ("[1.0]", None, Status.ERROR),
        ("np.array([1, 2])", None, Status.ERROR),
        ("{'score': 1}", None, Status.ERROR),
    ],
)
def test_what_a_function_returns_is_a_number_or_unscorable(
    run: Callable[..., list[Score]], result: str, value: float | None, status: Status
) -> None:
    """The third row alone gets `result`, so that the trial on the first two passes."""
    needs_torch = "    import torch\n" if "torch" in result else ""
    source = f"import numpy as np\ndef score(item):\n    if item.id != '2': return 0\n{needs_torch}    return {result}"
    if needs_torch:
        pytest.importorskip("torch")
        source = source.replace("    import torch\n", "").replace("import numpy", "import torch\nimport numpy")
    score = run(source)[2]
    assert (score.value, score.status) == (value, status)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def score(item): return 'good'", r"my_rules\.py:1: score\(\) returned str 'good'; expected a number"),
        ("\ndef score(item): return float('nan')", r"my_rules\.py:2: score\(\) returned nan"),
        ("def score(items): return [1.0]", r"my_rules\.py:1: score\(\) returned 1 values for 2 samples"),
        ("def score(items): return 1.0", r"my_rules\.py:1: score\(\) returned float 1.0; expected a list"),
        ("def score(item):\n    return item.columns['levle']", r"my_rules\.py:2: KeyError: 'levle'"),
        ("def score(): return 1.0", r"my_rules\.py:1: score\(\) cannot be called with a sample"),
        ("def score(item, a, b): return 1.0", r"missing a required argument: 'a'"),
        ("def score(item) return 1.0", r"my_rules\.py:1: SyntaxError"),
        ("\nimport no_such_module\ndef score(item): return 1.0", r"my_rules\.py:2: ModuleNotFoundError"),
        ("def scores(item): return 1.0", r"my_rules\.py has no function 'score'; it has scores"),
        ("import sys\nsys.exit(3)", r"my_rules\.py:2: SystemExit: 3"),
        ("def score(item):\n    while True: pass", r"took longer than 2 s"),
    ],
)
def test_an_unfit_function_is_refused_at_start_with_its_line(
    run: Callable[..., list[Score]], source: str, message: str
) -> None:
    with pytest.raises(RewardError, match=message) as caught:
        run(source)
    assert "\n" not in str(caught.value)


def test_a_missing_column_of_made_up_rows_does_not_stop_the_start(tmp_path: Path) -> None:
    (tmp_path / "my_rules.py").write_text("def score(item): return item.columns['level']", encoding="utf-8")
    pool = RewardPool([RewardSpec(use="my_rules.py:score")], RewardPoolConfig(), folder=tmp_path)
    pool.start()
    scores = pool.score_blocking(ROWS)
    pool.close()
    assert [score.value for score in scores] == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("use", "message"),
    [
        ("./none.py:score", "there is no file"),
        ("none.py:", "there is no file"),
        ("my_rules.py", "'my_rules.py' is unknown; a built-in"),
        ("gsm8", "did you mean gsm8k"),
    ],
)
def test_a_reward_that_is_not_there_is_named(use: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RewardError, match=message):
        RewardPool([RewardSpec(use=use)], RewardPoolConfig(), folder=tmp_path)


COLLISION = """
from pathlib import Path
from configs.schema.rewards import RewardPoolConfig, RewardSpec
from rewards.contract import RewardInput
from rewards.pool import RewardPool
specs = [RewardSpec(use="./rewards.py:mine"), RewardSpec(use="math")]
pool = RewardPool(specs, RewardPoolConfig())
pool.start()
print(pool.score_blocking([RewardInput(prompt="", response=r"\\\\boxed{2}", answer="2")])[0].parts)
pool.close()
"""


def test_a_users_own_rewards_py_shadows_nothing(tmp_path: Path) -> None:
    """The user's folder is the current one, and holds files named like our package and like standard modules."""
    (tmp_path / "rewards.py").write_text("import helper\ndef mine(item): return helper.VALUE", encoding="utf-8")
    (tmp_path / "helper.py").write_text("VALUE = 7", encoding="utf-8")
    (tmp_path / "code.py").write_text("raise RuntimeError", encoding="utf-8")
    script = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{COLLISION}"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout == "{'mine': 7.0, 'math': 1.0}\n", done.stderr


def test_what_a_reward_prints_is_no_part_of_our_output(tmp_path: Path) -> None:
    source = "import os\ndef mine(item):\n    print('LOUD')\n    return os.write(1, b'LOUD') + os.write(2, b'LOUD') - 7"
    (tmp_path / "loud.py").write_text(source, encoding="utf-8")
    script = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{COLLISION}".replace("./rewards.py", "./loud.py")
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout == "{'mine': 1.0, 'math': 1.0}\n"
    assert "LOUD" not in done.stderr


def test_importing_the_pool_needs_no_torch_no_ray_and_no_sympy() -> None:
    script = (
        "import sys, rewards.pool; print([m for m in ('torch', 'ray', 'sympy', 'math_verify') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


def test_the_dataset_may_choose_the_reward(tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text("def one(item): return 1\ndef two(item): return 2", encoding="utf-8")
    specs = [RewardSpec(use="two.py:one", task="a"), RewardSpec(use="two.py:two", task="b")]
    pool = RewardPool(specs, RewardPoolConfig(), folder=tmp_path)
    pool.start()
    items: list[Any] = [RewardInput(prompt="", response="", answer=None, columns={"task": task}) for task in "abc"]
    scores = pool.score_blocking(items)
    pool.close()
    assert [score.value for score in scores] == [1.0, 2.0, None]
    assert scores[2].status is Status.ABSTAIN
