"""Promise 8: nothing in the code runs text, unpickles a file or starts a shell; with it promises 3, 4 and 7."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = (
    "actors", "algorithms", "benchmarks", "cli", "cluster", "configs", "experience", "feedback", "metrics", "reports",
    "rewards", "trainers",
)  # fmt: skip
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))

# Whatever they are called on.
NAMES = {
    "parse_expr", "sympify", "__import__", "system", "popen", "getoutput", "getstatusoutput", "create_subprocess_shell",
    "extractall", "unpack_archive", "unsafe_load", "full_load", "load_checkpoint",
}  # fmt: skip
BUILTINS = {"eval", "exec", "compile"}  # `re.compile` and `model.eval` are others
OF_MODULES = {"yaml": {"load", "load_all"}, "torch": {"load", "save"}, "numpy": {"load"}, "np": {"load"}}
MODULES = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib", "code", "codeop", "runpy"}
KEYWORDS = {"shell": True, "trust_remote_code": True, "allow_pickle": True, "weights_only": False}
TEXTS = {"VLLM_ALLOW_INSECURE_SERIALIZATION", "0.0.0.0"}

# What stands in the code all the same, and why that is right.
ALLOWED = {
    (
        "trainers/zero/engine.py",
        "load_checkpoint",
    ): "DeepSpeed's loader unpickles; the signature is checked before",
    (
        "trainers/zero/universal.py",
        "ds_to_universal",
    ): "DeepSpeed's conversion unpickles; the signature is checked before",
    ("actors/engine_environment.py", "VLLM_ALLOW_INSECURE_SERIALIZATION"): "sets it to 0, whatever the user's own is",
    ("benchmarks/modelled_workers.py", "pickle"): "reads what it wrote itself a moment before, as Ray does for actors",
    ("benchmarks/plan.py", "pickle"): "reads what benchmarks/plan_memory.py wrote on this machine a moment before",
    ("benchmarks/plan_memory.py", "pickle"): "writes that file",
}


def faults(source: str) -> Iterator[tuple[int, str]]:
    """Line and name of whatever is looked for."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            yield from ((node.lineno, name) for name in of_call(node))
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in MODULES:
            yield node.lineno, node.module
        elif isinstance(node, ast.ImportFrom):
            looked_for = NAMES | {"ds_to_universal"} | OF_MODULES.get(node.module or "", set())
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name in looked_for)
        elif isinstance(node, ast.Constant) and node.value in TEXTS:
            yield node.lineno, node.value


def of_call(node: ast.Call) -> Iterator[str]:
    name, owner = "", ""
    if isinstance(node.func, ast.Name):
        name = node.func.id
    elif isinstance(node.func, ast.Attribute):
        name, owner = node.func.attr, getattr(node.func.value, "id", "?")
    if name in NAMES or (not owner and name in BUILTINS) or (owner == "builtins" and name in BUILTINS):
        yield name
    if name in OF_MODULES.get(owner, ()) and not (owner == "torch" and name == "load" and is_restricted(node)):
        yield name
    for keyword in node.keywords:
        if keyword.arg in KEYWORDS and getattr(keyword.value, "value", None) is KEYWORDS[keyword.arg]:
            yield f"{keyword.arg}="


def is_restricted(node: ast.Call) -> bool:
    return any(k.arg == "weights_only" and getattr(k.value, "value", None) is True for k in node.keywords)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_runs_text_or_unpickles(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    found = list(faults(path.read_text(encoding="utf-8")))
    allowed = {what for file, what in ALLOWED if file == name}
    assert [fault for fault in found if fault[1] not in allowed] == []
    assert {what for _, what in found} == allowed, "leave the list of what is allowed"


@pytest.mark.parametrize(
    "line",
    [
        "eval(x)",
        "builtins.exec(x)",
        "sympy.sympify(x)",
        "import pickle",
        "from pickle import loads",
        "import cloudpickle as cp",
        "torch.load(x)",
        "from torch import load",
        "torch.save(x, y)",
        "yaml.load(x, yaml.Loader)",
        "yaml.unsafe_load(x)",
        "run(x, shell=True)",
        "os.system(x)",
        "from os import system",
        "tarfile.open(x).extractall(y)",
        "np.load(x)",
        "engine.load_checkpoint(x)",
        "AutoModel.from_pretrained(x, trust_remote_code=True)",
        "server = create_server(('0.0.0.0', 80))",
        "environment['VLLM_ALLOW_INSECURE_SERIALIZATION'] = '1'",
    ],
)
def test_the_search_finds_what_it_is_for(line: str) -> None:
    assert len(list(faults(line))) == 1


@pytest.mark.parametrize(
    "line",
    [
        "re.compile(x)",
        "model.eval()",
        "torch.load(x, weights_only=True)",
        "json.loads(x)",
        "run([x], shell=False)",
        "load(path, trust_remote_code=config.trust_remote_code)",
    ],
)
def test_it_finds_nothing_else(line: str) -> None:
    assert list(faults(line)) == []
