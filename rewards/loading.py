"""From the `use:` of a recipe to a function that can be called: built-in names and users' own files."""

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from rewards.builtin import BUILTINS
from rewards.contract import RewardError


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A loaded reward. `where` names it in errors; `file` is where a user would mend it."""

    function: Callable[..., Any]
    args: Mapping[str, Any]
    where: str
    file: str
    is_batch: bool
    is_async: bool


def find(use: str, folder: Path) -> Path | None:
    """The user's file that `use` names, or None for a built-in. RewardError when it is neither."""
    path, separator, function = use.rpartition(":")
    if not separator:
        if use in BUILTINS:
            return None
        hint = "; did you mean " + close[0] if (close := difflib.get_close_matches(use, BUILTINS, n=1)) else ""
        names = ", ".join(sorted(BUILTINS))
        raise RewardError(
            f"rewards: use: {use!r} is unknown{hint}; a built-in ({names}), path/to/file.py:function or model:PATH"
        )
    file = (folder / path).resolve()
    if not file.is_file():
        raise RewardError(f"rewards: use: {use!r}: there is no file {file}")
    if not function.isidentifier():
        raise RewardError(f"rewards: use: {use!r}: {function!r} is no function's name; write path/to/file.py:function")
    return file


def load(use: str, args: Mapping[str, Any], folder: Path = Path()) -> Rule:
    """The rule that `use` names, with its arguments checked against its signature; else RewardError.

    `folder` is what relative paths start from. A user's file is executed: do this in a process of its own.
    """
    file = find(use, folder)
    if file is None:
        target = BUILTINS[use].target
        module_name, _, name = target.partition(":")
        module, where = importlib.import_module(module_name), use
    else:
        name = use.rpartition(":")[2]
        module, where = _execute(file), name
    function = getattr(module, name, None)
    if not callable(function):
        defined = sorted(key for key, value in vars(module).items() if inspect.isfunction(value))
        raise RewardError(
            f"rewards: use: {use!r}: {file} has no function {name!r}; it has {', '.join(defined) or 'none'}"
        )
    return _rule(function, args, where, str(file or module.__file__))


def _rule(function: Callable[..., Any], args: Mapping[str, Any], where: str, file: str) -> Rule:
    code = getattr(function, "__code__", None)
    line = f"{file}:{code.co_firstlineno}" if code else file
    where = where if where in BUILTINS else f"{line}: {where}()"
    signature = inspect.signature(function)
    try:
        signature.bind(object(), **args)
    except TypeError as error:
        raise RewardError(
            f"{line}: {function.__name__}{signature} cannot be called with a sample and args {dict(args)}: {error}"
        ) from error
    first = next(iter(signature.parameters))
    return Rule(
        function=function,
        args=dict(args),
        where=where,
        file=file,
        is_batch=first == "items",
        is_async=inspect.iscoroutinefunction(function),
    )


def _execute(file: Path) -> ModuleType:
    """Run a user's file under a private module name, so that its own name can shadow nothing."""
    name = f"_wutong_user_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    folder = str(file.parent)
    if folder not in sys.path:
        sys.path.append(folder)  # last: the user's helper modules are found, and none of ours is shadowed
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise RewardError(f"{file}: not a Python file; a reward's file must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:  # whatever a user's module does at import is the user's to mend
        del sys.modules[name]
        raise RewardError(describe(error, str(file))) from error
    return module


def describe(error: BaseException, file: str) -> str:
    """One line for an exception: the last place in `file` that it passed, its type and its message."""
    message = " ".join(str(error).split())
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: {type(error).__name__}: {error.msg}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    place = f"{file}:{lines[-1]}" if lines else file
    return f"{place}: {type(error).__name__}: {message}"[:500]
