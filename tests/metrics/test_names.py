"""The table of metrics covers what the code base reports."""

import ast
import re
from pathlib import Path

import pytest

from metrics.console_sink import SHOWN
from metrics.names import PHASES, TABLE, Reduction, metric

ROOT = Path(__file__).parents[2]
ROOMS = ("actors", "algorithms", "cli", "cluster", "experience", "metrics", "rewards", "trainers")
SPACES = {name.partition("/")[0] for name in TABLE}


def names_in(path: Path) -> set[str]:
    """Texts in the code that look like a metric's name; docstrings and messages hold spaces and don't."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return {text for text in texts if re.fullmatch(rf"({'|'.join(SPACES)})/[a-z_0-9]+", text)}


def test_every_name_in_the_code_is_in_the_table() -> None:
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    used = {name: str(path.relative_to(ROOT)) for path in files for name in names_in(path)}
    assert "reward/mean" in used  # the walk finds what it looks for
    unknown = {}
    for name, path in used.items():
        try:
            metric(name)
        except ValueError:
            unknown[name] = path
    assert unknown == {}


def test_rows_are_complete() -> None:
    for row in TABLE.values():
        assert re.fullmatch(r"[a-z]+/([a-z_0-9]+|<[a-z]+>)", row.name)
        assert row.meaning
    assert {row.reduction for row in TABLE.values()} == set(Reduction)
    assert set(SHOWN) <= set(TABLE)
    assert {f"time/{phase}" for phase in PHASES} | {f"share/{phase}" for phase in PHASES} <= set(TABLE)


def test_a_family_takes_any_name_below_its_prefix() -> None:
    assert metric("reward/my_reward.py:score") is TABLE["reward/<part>"]
    assert metric("score/timeout") is TABLE["score/<status>"]
    assert metric("reward/mean") is TABLE["reward/mean"]


@pytest.mark.parametrize("name", ["policy/los", "loss", "reward/", "reward/a b", "rewards/mean", "reward/<part"])
def test_a_name_outside_the_table_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"is not in metrics/names\.py"):
        metric(name)


def test_the_nearest_names_are_told() -> None:
    with pytest.raises(ValueError, match="near: policy/loss"):
        metric("policy/los")
