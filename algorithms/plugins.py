"""Loading of a user's own row, estimator or loss from `path/to/file.py:name`."""

import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def is_path(name: str) -> bool:
    """Whether `name` points into a file rather than into one of our tables."""
    return ".py:" in name


def load_attribute(key: str, path: str) -> object:
    """The object that `path` ("file.py:name") points to; `key` is the config key for error lines.

    Each process runs the file once. Its module gets a private name, so that it shadows nothing.
    """
    file_name, _, attribute = path.rpartition(":")
    file = Path(file_name).expanduser().resolve()
    if not file.is_file():
        raise ValueError(f"{key}={path!r}: there is no file {file}; write it as path/to/file.py:name")
    module = _load_module(key, file)
    if not hasattr(module, attribute):
        names = [name for name in vars(module) if not name.startswith("_")]
        raise ValueError(f"{key}={path!r}: {file} has no {attribute!r}; it has {', '.join(sorted(names))}")
    return getattr(module, attribute)


def _load_module(key: str, file: Path) -> ModuleType:
    name = f"_wutong_plugin_{hashlib.sha256(str(file).encode()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up while it runs
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a user's file can fail in any way; every way is told with its key
        del sys.modules[name]
        raise ValueError(f"{key}: {file} failed to load: {type(error).__name__}: {error}") from error
    return module
