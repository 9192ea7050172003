"""Every wait of the driver goes through the register (metrics/waits.py), by the syntax of its code."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(path for room in ("actors", "cluster", "trainers") for path in (ROOT / room).glob("*.py"))

# What may be awaited as it is, and why.
ALLOWED = {
    "actors/rollout.py": "runs inside an actor; the driver's wait for its answer has the deadline",
    "actors/weights.py": "runs inside an actor; the driver's wait for its answer has the deadline",
    "trainers/scoring_model.py": "runs inside an actor or a server of its own",
    "cluster/stopping.py": "awaits the whole of a run's work, whose waits have their own deadlines",
    "cluster/simulated.py": "waits on a virtual clock",
}
# Calls that wait for somebody else, and no coroutine of ours whose own waits are looked at where it is written.
WAITING = {"wait", "wait_for", "shield", "wrap_future", "to_thread", "remote", "get", "acquire", "join", "future"}


def bare_waits(source: str) -> list[int]:
    """Lines that await anything but `waited`, a sleep, or a coroutine."""
    return [node.lineno for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Await) and is_bare(node.value)]


def is_bare(awaited: ast.expr) -> bool:
    if not isinstance(awaited, ast.Call):
        return True  # a future, a task, an object reference
    name = awaited.func.attr if isinstance(awaited.func, ast.Attribute) else getattr(awaited.func, "id", "")
    if name == "gather":
        return any(is_bare(part) for argument in awaited.args for part in parts_of(argument))
    return name in WAITING


def parts_of(argument: ast.expr) -> list[ast.expr]:
    """What is gathered: of `*(f(x) for x in y)`, its `f(x)`. Names that stand for coroutines are let pass."""
    inner = argument.value if isinstance(argument, ast.Starred) else argument
    if isinstance(inner, ast.GeneratorExp | ast.ListComp):
        inner = inner.elt
    return [] if isinstance(inner, ast.Name) and inner.id == "calls" else [inner]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_wait_is_outside_of_the_register(path: Path) -> None:
    found = bare_waits(path.read_text())
    is_allowed = str(path.relative_to(ROOT)) in ALLOWED
    assert bool(found) == is_allowed, f"lines {found}: use `waited`, or leave the list of what is allowed"


@pytest.mark.parametrize(
    "line",
    [
        "await asyncio.wait(tasks)",
        "await future",
        "await self.task",
        "await actor.method.remote()",
        "await asyncio.wait_for(work(), 3)",
        "await queue.get()",
        "await asyncio.gather(*(piece.future for piece in pieces))",
    ],
)
def test_bare_waits_are_found(line: str) -> None:
    assert bare_waits(f"async def f():\n    {line}") == [2]


@pytest.mark.parametrize(
    "line",
    [
        "await waited(future, what='w', owner='o')",
        "await asyncio.sleep(1)",
        "await self._load(3)",
        "await asyncio.gather(*(load(x) for x in y))",
    ],
)
def test_coroutines_are_no_waits(line: str) -> None:
    assert bare_waits(f"async def f():\n    {line}") == []
