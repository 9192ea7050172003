"""Text from a model never reaches anything that runs it: no such call stands in the package."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "rewards"
FORBIDDEN = {"eval", "exec", "compile", "parse_expr", "sympify", "__import__", "system", "popen"}
FORBIDDEN_IN = {"pickle": {"load", "loads"}, "marshal": {"load", "loads"}, "yaml": {"load"}, "torch": {"load"}}


def calls(tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    """Line, owner and name of each call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                yield node.lineno, "", node.func.id
            elif isinstance(node.func, ast.Attribute):
                owner = node.func.value
                yield node.lineno, owner.id if isinstance(owner, ast.Name) else "?", node.func.attr


def faults(source: str) -> list[str]:
    found = []
    for line, owner, name in calls(ast.parse(source)):
        is_plain = name in FORBIDDEN and (not owner or name not in ("compile",))
        if is_plain or name in FORBIDDEN_IN.get(owner, ()):
            found.append(f"{line}: {name}")
    keywords = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.keyword)]
    found += [f"{keyword.value.lineno}: shell=" for keyword in keywords if keyword.arg == "shell"]
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.name)
def test_no_file_evaluates_text(path: Path) -> None:
    assert faults(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "line", ["eval(x)", "sympy.sympify(x)", "pickle.loads(x)", "run(x, shell=True)", "os.system(x)"]
)
def test_the_search_finds_what_it_is_for(line: str) -> None:
    assert len(faults(line)) == 1
